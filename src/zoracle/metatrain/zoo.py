"""Many small networks for learning attacks, of several kinds and image sizes, some adversarially trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from zoracle import keyed
from zoracle.errors import InputError
from zoracle.settings import NonNegative, Number, Size
from zoracle.tasks import task
from zoracle.tasks.image_attack import ImageAttackTask
from zoracle.tasks.networks import build
from zoracle.tasks.training import initialise, save_target, signed_step

Kind = Literal["conv", "antialiased", "strided", "residual", "mobile", "patch", "mlp"]


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One network of the zoo.

    Attributes:
        name: of the network.
        task: that its images come from: cifar10, mnist or digits.
        side: of the images; others are resized, by cubic interpolation.
        kind: of the network.
        width: channels of its first layer.
        epochs: passes over the images.
        eps: radius of the linf ball that it is trained against, by one signed step from a random point; 0 for none.
        patch: side of the patches of "patch".
    """

    name: str
    task: str
    side: Size
    kind: Kind
    width: Size = 16
    epochs: Number = 8
    eps: NonNegative = 0.0
    patch: Size = 4


class Images(NamedTuple):
    """Images for training a network, and others for attacking it."""

    train: Tensor
    train_labels: Tensor
    rest: Tensor
    rest_labels: Tensor


def images_of(member: Member) -> Images:
    """The images for a member, without those of its task's validation and test splits.

    Raises:
        InputError: the task's images are not available.
    """
    made = task(member.task)
    if not isinstance(made, ImageAttackTask):
        raise InputError(f"network {member.name}: task {member.task} has no images; expected an attack on images")
    kept_back = {*made.ids("valid"), *made.ids("test")}
    data = made.pick()
    # The test batch of CIFAR-10 is not used at all.
    rows = [row for row, i in enumerate(data.ids) if i not in kept_back and (member.task != "cifar10" or i >= 10_000)]
    order = [rows[k] for k in keyed.permutation(len(rows), 17)]
    x, y = data.images[order].float() / made.white, data.labels[order]
    if x.shape[2] != member.side:
        size = (member.side, member.side)
        x = F.interpolate(x, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    many = min(6000, len(x) * 6 // 7 if member.task == "cifar10" else len(x) * 2 // 3)
    return Images(x[:many], y[:many], x[many:], y[many:])


def network_of(member: Member, channels: int, classes: int = 10) -> nn.Module:
    """A member's network with uninitialised weights."""

    def make() -> nn.Module:
        w, side = member.width, member.side
        if member.kind == "mlp":
            sizes = (channels * side * side, 200, 100, classes)
            return nn.Sequential(
                nn.Flatten(), *(part for i in range(3) for part in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()))
            )[:-1]
        if member.kind == "patch":
            return _Patches(channels, side, member.patch, 64, classes)
        if member.kind in ("conv", "strided", "antialiased"):
            return _plain(member.kind, channels, side, w, classes)
        stem = nn.Sequential(nn.Conv2d(channels, w, 3, 1 + (side > 32 or member.kind == "mobile"), 1, bias=False))
        norm = [nn.BatchNorm2d(w), nn.ReLU6() if member.kind == "mobile" else nn.ReLU()]
        if member.kind == "residual":
            body: list[nn.Module] = [_Residual(w, w, 1), _Residual(w, 2 * w, 2), _Residual(2 * w, 4 * w, 2)]
        else:
            body = [_Mobile(*sizes) for sizes in ((w, w, 1), (w, 2 * w, 2), (2 * w, 2 * w, 1), (2 * w, 4 * w, 2))]
        return nn.Sequential(stem, *norm, *body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * w, classes))

    return build(make)  # type: ignore[arg-type]  # anything that makes a module will do


def trained(
    member: Member, folder: Path, *, seed: int = 0, report: Callable[[str, float], None] | None = None
) -> tuple[nn.Module, Images]:
    """A member with its weights, read from the folder if they are there, otherwise trained and written to it.

    Args:
        member: the network.
        folder: contains ``NAME.safetensors``.
        seed: keys its first weights and the order of images.
        report: called with its name and its accuracy on images that it was not trained on.
    """
    images = images_of(member)
    network = network_of(member, images.train.shape[1])
    path = folder / f"{member.name}.safetensors"
    if path.is_file():
        network.load_state_dict(load_file(path))
        return network.eval().requires_grad_(False), images
    initialise(network, keyed.mix(seed, *member.name.encode()))
    for part in network.modules():
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()
    _train(network, member, images, seed)
    with torch.no_grad():
        right = float((network(images.rest[:500]).argmax(1) == images.rest_labels[:500]).float().mean())
    save_target(network, path, {"network": member.name, "accuracy": f"{right:.3f}"})
    if report is not None:
        report(member.name, right)
    return network, images


def _train(network: nn.Module, member: Member, images: Images, seed: int) -> None:
    batch, many = 64, len(images.train)
    steps = member.epochs * (many // batch)
    adam = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, 4e-3, total_steps=steps)
    for step in range(steps):
        epoch, at = divmod(step, many // batch)
        rows = torch.from_numpy(keyed.permutation(many, seed, epoch)[at * batch : (at + 1) * batch])
        x, y = images.train[rows], images.train_labels[rows]
        g = keyed.generator(seed, 9, step)
        if member.task == "cifar10":
            x = x.flip(3) if step % 2 else x
            most = max(1, member.side // 10)
            shift = torch.randint(-most, most + 1, (2,), generator=g).tolist()
            x = x.roll(shift, (2, 3))
        if member.eps:
            x = signed_step(network.eval(), x, y, member.eps, g)
        loss = F.cross_entropy(network.train()(x), y)
        adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()
    network.eval().requires_grad_(False)


def _plain(kind: str, channels: int, side: int, w: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    before = channels
    for number in range(3 if side >= 16 else 2):
        after, last = w * 2**number, side
        size, stride = (5 if number == 0 and kind != "conv" else 3), (2 if kind == "strided" else 1)
        layers += [nn.Conv2d(before, after, size, stride, size // 2, bias=kind != "antialiased")]
        layers += [nn.BatchNorm2d(after)] if kind == "antialiased" else []
        layers += [nn.ReLU()]
        if kind != "strided":
            layers.append(nn.MaxPool2d(2) if kind == "conv" else nn.AvgPool2d(2))
        side = (last + 1) // 2 if kind == "strided" else last // 2
        before = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * side * side, 64), nn.ReLU(), nn.Linear(64, classes))


class _Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.Conv2d(after, after, 3, 1, 1)
        self.first_norm, self.second_norm = nn.BatchNorm2d(after), nn.BatchNorm2d(after)
        self.across = nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(out + self.across(x))


class _Mobile(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        wide = 3 * before
        self.body = nn.Sequential(
            *(nn.Conv2d(before, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, after, 1, bias=False), nn.BatchNorm2d(after)),
        )
        self.skips = before == after and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return x + out if self.skips else out


class _Mixer(nn.Module):
    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.across_norm, self.along_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(patches, patches), nn.ReLU(), nn.Linear(patches, patches))
        self.along = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.across_norm(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.along(self.along_norm(x))
        return out


class _Patches(nn.Module):
    """A small MLP-Mixer (Tolstikhin et al., 2021)."""

    def __init__(self, channels: int, side: int, patch: int, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.mix = nn.Sequential(*(_Mixer((side // patch) ** 2, width) for _ in range(2)))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.mix(self.embed(x).flatten(2).transpose(1, 2)).mean(1))
        return out
