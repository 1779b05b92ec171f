"""The Trainer of transformers without gradients, on models of some thousand random weights."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from zoracle.errors import InputError  # noqa: E402
from zoracle.interop.transformers import ZerothOrderTrainer  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
VOCABULARY, LENGTH = 24, 8


@pytest.fixture(autouse=True)
def no_global_generator():
    """The Trainer seeds torch's global generator, and so does drawing a model's weights."""
    with torch.random.fork_rng():
        yield


def causal():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=LENGTH, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def texts(number=16):
    g = torch.Generator().manual_seed(1)
    rows = (torch.arange(LENGTH) + torch.randint(VOCABULARY, (number, 1), generator=g)) % VOCABULARY
    return [{"input_ids": row, "labels": row} for row in rows]


def trainer(folder, model, *, steps=6, kind=ZerothOrderTrainer, method="mezo", method_settings=None, **arguments):
    given = {"per_device_train_batch_size": 4, "learning_rate": 0.02, "report_to": [], "save_strategy": "no"}
    args = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, use_cpu=True, logging_steps=1, disable_tqdm=True,
        **{**given, **arguments},
    )  # fmt: skip
    return kind(model=model, args=args, train_dataset=texts(), method=method, method_settings=method_settings)


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def losses(made):
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def test_the_loss_falls(tmp_path):
    made = trainer(
        tmp_path, causal(), steps=60, method="fzoo", method_settings={"num_directions": 8}, learning_rate=0.01
    )
    made.train()
    assert sum(losses(made)[-10:]) / 10 < sum(losses(made)[:3]) / 3 - 0.1
    assert made.optimizer.optimizer.forwards == 60 * 9
    assert all(p.grad is None for p in made.model.parameters())


def test_adapters_move_and_nothing_else(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = peft.get_peft_model(causal(), config)
    before = weights(model)
    trainer(tmp_path, model).train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_" in name}


def test_frozen_weights_stay_and_tied_ones_stay_tied(tmp_path):
    model = causal()
    model.transformer.wpe.requires_grad_(False)
    before = weights(model)
    made = trainer(tmp_path, model)
    made.train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert "transformer.wte.weight" in moved
    assert "transformer.wpe.weight" not in moved
    assert model.lm_head.weight is model.transformer.wte.weight
    trained = [p for group in made.optimizer.optimizer.param_groups for p in group["params"]]
    assert len(trained) == len({id(p) for p in trained}) == len(before) - 1


def test_micro_batches_are_one_batch(tmp_path):
    whole = trainer(tmp_path / "whole", causal(), per_device_train_batch_size=8)
    parts = trainer(tmp_path / "parts", causal(), per_device_train_batch_size=2, gradient_accumulation_steps=4)
    whole.train()
    parts.train()
    torch.testing.assert_close(losses(whole), losses(parts), rtol=1e-3, atol=1e-3)
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(value, weights(parts.model)[name], rtol=1e-3, atol=1e-3)
    assert parts.optimizer.optimizer.steps == whole.optimizer.optimizer.steps == 6


def test_the_scheduler_and_weight_decay_of_the_arguments_hold(tmp_path):
    made = trainer(tmp_path, causal(), lr_scheduler_type="linear", weight_decay=0.1)
    made.train()
    rates = [entry["learning_rate"] for entry in made.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([0.02 * (1 - k / 6) for k in range(6)])
    assert [group["weight_decay"] for group in made.optimizer.optimizer.param_groups] == [0.1, 0.0]


@pytest.mark.parametrize("method", ["mezo", "mezo-adam"])
def test_a_checkpoint_goes_on_bit_for_bit(tmp_path, method):
    saving = {"save_strategy": "steps", "save_steps": 3, "method": method, "learning_rate": 1e-3}
    whole = trainer(tmp_path / "whole", causal(), **saving)
    whole.train()
    again = trainer(tmp_path / "whole", causal(), **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert again.optimizer.optimizer.forwards == whole.optimizer.optimizer.forwards / 2
    for name, value in weights(whole.model).items():
        assert torch.equal(value, weights(again.model)[name]), name


@pytest.mark.parametrize("method", ["mezo", "mezo-adam"])
def test_adapters_go_on_bit_for_bit(tmp_path, method):
    peft = pytest.importorskip("peft", reason="peft is not installed")

    def adapted():
        config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
        return peft.get_peft_model(causal(), config)

    saving = {"save_strategy": "steps", "save_steps": 3, "method": method, "learning_rate": 1e-3}
    whole = trainer(tmp_path, adapted(), **saving)
    whole.train()
    again = trainer(tmp_path, adapted(), **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.optimizer.optimizer.forwards == whole.optimizer.optimizer.forwards / 2
    assert not all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), adapted().parameters(), strict=True))
    for name, value in weights(whole.model).items():
        assert torch.equal(value, weights(again.model)[name]), name


def test_a_short_last_group_of_micro_batches_is_a_step_of_its_own(tmp_path):
    class Counting(ZerothOrderTrainer):
        calls: ClassVar[list[int]] = []

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            self.calls.append(len(inputs["input_ids"]))
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    # 16 rows in batches of 2 are eight micro-batches: groups of 3, 3 and 2.
    made = trainer(
        tmp_path, causal(), steps=6, kind=Counting, per_device_train_batch_size=2, gradient_accumulation_steps=3,
        learning_rate=1e-6,
    )  # fmt: skip
    made.train()
    assert made.optimizer.optimizer.steps == 6
    assert Counting.calls == [2] * (2 * 2 * (3 + 3 + 2))
    assert losses(made) == pytest.approx([losses(made)[0]] * 6, rel=0.05), "of the last group's two, not of three"


def test_learned_has_no_setting_but_a_factor_of_one(tmp_path):
    made = trainer(tmp_path, causal(), steps=80, method="learned", learning_rate=1.0, lr_scheduler_type="constant")
    made.train()
    assert made.optimizer.optimizer.method.config.horizon == 80
    assert sum(losses(made)[-10:]) / 10 < sum(losses(made)[:3]) / 3 - 0.1
    with pytest.raises(InputError, match="which learned multiplies its own steps by") as raised:
        trainer(tmp_path, causal(), method="learned", learning_rate=0.005)
    assert "learning_rate is 0.005" in str(raised.value)
    assert "learning_rate=1" in str(raised.value)


def test_a_loss_without_a_gradient(tmp_path):
    class Wrong(ZerothOrderTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            logits = model(input_ids=inputs["input_ids"]).logits[:, :-1]
            return (logits.argmax(2) != inputs["labels"][:, 1:]).double().mean()

    before = weights(model := causal())
    made = trainer(tmp_path, model, kind=Wrong, method_settings={"mu": 0.1})
    made.train()
    assert all(0 <= loss <= 1 for loss in losses(made))
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_what_needs_gradients_is_refused(tmp_path):
    model = causal()
    made = trainer(tmp_path, model)
    with pytest.raises(InputError, match="an optimizer was given"):
        ZerothOrderTrainer(model=model, args=made.args, optimizers=(torch.optim.SGD(model.parameters()), None))
    with pytest.raises(InputError, match="an optimizer was given"):  # by place, as its eleventh argument
        ZerothOrderTrainer(model, made.args, *[None] * 8, (torch.optim.SGD(model.parameters()), None))
    with pytest.raises(InputError, match="an optimizer was given"):
        ZerothOrderTrainer(model=model, args=made.args, optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 1.0}))
    made.args.fp16 = True
    with pytest.raises(InputError, match="fp16"):
        ZerothOrderTrainer(model=model, args=made.args)
    with pytest.raises(InputError, match="method 'none' is unknown"):
        trainer(tmp_path, model, method="none").train()
