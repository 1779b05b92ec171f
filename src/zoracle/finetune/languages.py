"""Small language models for the training of the controller: pretrained on drawn languages, then asked for the language.

A language is a Markov chain over tokens; the task is to tell chains apart that differ by little. All weights of a model
move, or adapters of low rank (Hu et al., 2022); it answers by the next token (Malladi et al., 2023) or by a new head.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Draws = Callable[[int, int], int]
"""From the lowest and the highest to an integer."""
_SAMPLES = 1024
_MASK = 0  # the token that replaces a masked one; no chain draws it


class Attention(nn.Module):
    """One block of a transformer: attention of two heads and a feed-forward layer, each behind a norm."""

    def __init__(self, width: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.first(x)).view(n, t, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // 2)
        if self.causal:
            scores = scores + torch.full((t, t), -1e9).triu(1)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width)
        x = x + self.out(mixed)
        hidden: Tensor = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return hidden


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


class Speaker(nn.Module):
    """A small transformer whose output layer is its embedding; it classifies by the next token or by a head.

    Args:
        tokens: number of tokens.
        length: of a sequence.
        width: of the residual stream.
        layers: number of blocks.
        classes: of the task; each is answered by the token of its number where there is no head.
        causal: whether a token attends only to those before it.
        head: whether a linear map of the mean of the last layer answers.
    """

    def __init__(
        self, tokens: int, length: int, width: int, layers: int, classes: int, causal: bool, head: bool
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.position = nn.Parameter(torch.empty(length, width))
        self.blocks = nn.ModuleList(Attention(width, causal) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes) if head else None
        self.classes = classes

    def hidden(self, tokens: Tensor) -> Tensor:
        """The last layer (N, T, width) of tokens (N, T)."""
        x = self.embedding(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (N, classes) of tokens (N, T)."""
        x = self.hidden(tokens)
        logits: Tensor = self.head(x.mean(1)) if self.head else x[:, -1] @ self.embedding.weight[: self.classes].T
        return logits


def drawn(draw: Draws, g: torch.Generator) -> tuple[Speaker, Tensor, Tensor]:
    """A model, pretrained, with sequences (N, T) and the number of the language of each (N,).

    Args:
        draw: draws sizes.
        g: draws weights and sequences.
    """
    tokens, length, head = draw(12, 48), draw(10, 20), bool(draw(0, 1))
    classes = draw(2, 5 if head else 3)
    with torch.device("meta"):  # where making it draws nothing
        causal = not head or bool(draw(0, 1))
        speaker = Speaker(tokens, length, 2 * draw(6, 24), draw(1, 2), classes, causal, head)
    speaker.to_empty(device="cpu")
    chains = 2 * torch.randn((tokens, tokens), generator=g) + 1.2 * torch.randn((classes, tokens, tokens), generator=g)
    chains[..., _MASK] = -math.inf
    labels = torch.randint(classes, (_SAMPLES,), generator=g)
    steps = [torch.randint(1, tokens, (_SAMPLES,), generator=g)]
    while len(steps) < length:
        rows = chains[labels, steps[-1]].softmax(1)
        steps.append(torch.multinomial(rows, 1, generator=g).squeeze(1))
    texts = torch.stack(steps, 1)
    with torch.no_grad():
        for layer in speaker.modules():
            if isinstance(layer, nn.Linear):
                bound = layer.in_features**-0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=g)
                nn.init.zeros_(layer.bias) if draw(0, 1) else nn.init.uniform_(layer.bias, -bound, bound, generator=g)
            elif isinstance(layer, nn.LayerNorm):
                layer.reset_parameters()
        speaker.embedding.weight.copy_(0.05 * torch.randn(speaker.embedding.weight.shape, generator=g))
        speaker.position.copy_(0.05 * torch.randn(speaker.position.shape, generator=g))
    _pretrain(speaker, texts, (60, 120, 240)[draw(0, 2)], causal, g)
    return speaker, texts, labels


def adapt(speaker: Speaker, rank: int, g: torch.Generator) -> None:
    """Freeze a model except for its head, and add adapters to the input projections of its attention."""
    for parameter in speaker.parameters():
        parameter.requires_grad_(False)
    if speaker.head:
        speaker.head.requires_grad_(True)
    for block in speaker.blocks:
        assert isinstance(block, Attention)
        made = Adapted(block.qkv, rank)
        with torch.no_grad():
            made.down.copy_(torch.randn(made.down.shape, generator=g) / math.sqrt(made.down.shape[1]))
        block.qkv = made  # type: ignore[assignment]


def _pretrain(speaker: Speaker, texts: Tensor, steps: int, causal: bool, g: torch.Generator) -> None:
    """Train the model with gradients to predict the next token, or masked ones."""
    body = [p for name, p in speaker.named_parameters() if not name.startswith("head")]
    adam = torch.optim.Adam(body, 3e-3)
    for _ in range(steps):
        rows = texts[torch.randint(len(texts), (32,), generator=g)]
        hidden = torch.rand(rows.shape, generator=g) < 0.2
        x = speaker.hidden(rows if causal else rows.masked_fill(hidden, _MASK)) @ speaker.embedding.weight.T
        x, targets = (x[:, :-1].flatten(0, 1), rows[:, 1:].flatten()) if causal else (x[hidden], rows[hidden])
        adam.zero_grad()
        nn.functional.cross_entropy(x, targets).backward()  # type: ignore[no-untyped-call]
        adam.step()
