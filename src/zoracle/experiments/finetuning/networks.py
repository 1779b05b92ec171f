"""The networks of the experiment ``finetune``, with weights drawn by a key."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoracle import keyed

BYTES = 256


class Block(nn.Module):
    """Attention and a feed-forward layer, each preceded by layer normalisation."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, T, width) to (N, T, width)."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.first(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(n, t, width))
        hidden: Tensor = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return hidden


class ByteTransformer(nn.Module):
    """A transformer over bytes whose output layer shares the weights of the embedding.

    Args:
        width: of the residual stream; heads are 32 wide.
        layers: how many.
        length: largest number of bytes of a text.
        causal: whether a byte attends only to those before it.
    """

    def __init__(self, width: int, layers: int, length: int, causal: bool) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(BYTES, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, width // 32, causal) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def hidden(self, tokens: Tensor) -> Tensor:
        """The last layer (N, T, width) of tokens (N, T)."""
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, T, BYTES) of tokens (N, T)."""
        return self.hidden(tokens) @ self.embedding.weight.T


class Classifier(nn.Module):
    """A head on the mean of an encoder's last layer."""

    def __init__(self, encoder: ByteTransformer, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.embedding.embedding_dim, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, classes) of tokens (N, T)."""
        logits: Tensor = self.head(self.encoder.hidden(tokens).mean(1))
        return logits


class Prompted(nn.Module):
    """A causal transformer that classifies by its prediction of the byte after a prompt (Malladi et al., 2023).

    Args:
        model: as it was pretrained.
        prompt: appended to each text.
        answers: a byte for each class.
    """

    def __init__(self, model: ByteTransformer, prompt: bytes, answers: bytes) -> None:
        super().__init__()
        self.model = model
        self.prompt, self.answers = torch.tensor(list(prompt)), torch.tensor(list(answers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, classes) of tokens (N, T)."""
        asked = torch.cat((tokens, self.prompt.expand(len(tokens), -1)), 1)
        return self.model.hidden(asked)[:, -1] @ self.model.embedding.weight[self.answers].T


class Adapted(nn.Module):
    """A frozen linear layer with a trainable product of low rank added to it (LoRA; Hu et al., 2022)."""

    def __init__(self, whole: nn.Linear, rank: int) -> None:
        super().__init__()
        self.whole = whole
        self.down = nn.Parameter(torch.empty(rank, whole.in_features))
        self.up = nn.Parameter(torch.zeros(whole.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """W x + b + U V x."""
        y: Tensor = self.whole(x) + (x @ self.down.T) @ self.up.T
        return y


def adapt(model: ByteTransformer, rank: int, seed: int) -> None:
    """Freeze a transformer and add adapters to the input projections of its attention."""
    model.requires_grad_(False)
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        made = Adapted(block.qkv, rank)
        draw = torch.randn(made.down.shape, generator=keyed.generator(seed, 23, number))
        with torch.no_grad():
            made.down.copy_(draw / math.sqrt(block.qkv.in_features))
        block.qkv = made  # type: ignore[assignment]


def cnn() -> nn.Module:
    """Two convolutions and a linear layer on 8x8 images: 1,898 weights."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def draw(module: nn.Module, seed: int) -> None:
    """Weights by a key, in place: uniform in +-1/sqrt(inputs) for maps, N(0, 0.02^2) for embeddings, 1 for norms."""
    for number, layer in enumerate(module.modules()):
        g = keyed.generator(seed, 22, number)
        for key, parameter in layer.named_parameters(recurse=False):
            with torch.no_grad():
                if isinstance(layer, nn.Embedding):
                    parameter.copy_(0.02 * torch.randn(parameter.shape, generator=g))
                elif isinstance(layer, nn.LayerNorm):
                    parameter.fill_(float(key == "weight"))
                else:
                    weight = layer.weight
                    assert isinstance(weight, Tensor)
                    bound = math.sqrt(math.prod(weight.shape[1:]))
                    parameter.copy_((2 * torch.rand(parameter.shape, generator=g) - 1) / bound)
