"""ACmix (Pan et al. 2022, "On the Integration of Self-Attention and Convolution", arXiv:2111.14556)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from yolorep.nn.registry import register


@register()
class ACmix(nn.Module):
    """Local attention and a convolution that share q, k and v: ``[c2, k_att=7, heads=4, k_conv=3]``.

    Attention looks at a k_att×k_att window of the map, mirrored at its borders. The convolution mixes the 3·heads maps
    of q, k and v into k_conv² maps, which a grouped convolution then shifts and adds. Two learned rates weigh the two.

    Shape: (batch, c1, h, w) -> (batch, c2, h, w).

    Raises:
        ValueError: if the heads do not divide c2, or for an even window.
    """

    def __init__(self, c1: int, c2: int, k_att: int = 7, heads: int = 4, k_conv: int = 3) -> None:
        super().__init__()
        if heads < 1 or c2 % heads:
            raise ValueError(f"expected heads that divide the output channels, found {heads} for {c2} channels")
        if k_att < 1 or k_conv < 1 or k_att % 2 == 0 or k_conv % 2 == 0:
            raise ValueError(f"expected odd k_att and k_conv of at least 1, found {k_att} and {k_conv}")
        self.heads, self.k_att = heads, k_att
        self.head_channels = c2 // heads
        taps = k_conv**2
        self.q = nn.Conv2d(c1, c2, 1)
        self.k = nn.Conv2d(c1, c2, 1)
        self.v = nn.Conv2d(c1, c2, 1)
        self.position = nn.Conv2d(2, self.head_channels, 1, bias=False)  # softmax does not see a bias
        self.mix = nn.Conv2d(3 * heads, taps, 1, bias=False)
        self.shift = nn.Conv2d(taps * self.head_channels, c2, k_conv, padding=k_conv // 2, groups=self.head_channels)
        # Starts as what makes a k×k convolution out of 1×1 ones: map i moves by the offset of tap i.
        with torch.no_grad():
            self.shift.weight.copy_(torch.eye(taps).view(1, taps, k_conv, k_conv))
            self.shift.bias.zero_()  # type: ignore[union-attr]
        self.attention_rate = nn.Parameter(torch.tensor(0.5))
        self.convolution_rate = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (conv(x).unflatten(1, (self.heads, self.head_channels)) for conv in (self.q, self.k, self.v))
        return self.attention_rate * self._attend(q, k, v) + self.convolution_rate * self._convolve(q, k, v)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of every pixel over its window; q, k, v are (batch, heads, channels, h, w)."""
        # The paper adds the query's position less the key's to each key. The query's own is the same all over its
        # window, so softmax does not see it.
        keys = windows(k - self.position(locations(q)), self.k_att)
        logits = (q[..., None] * keys).sum(2, keepdim=True) * self.head_channels**-0.5
        return (logits.softmax(-1) * windows(v, self.k_att)).sum(-1).flatten(1, 2)

    def _convolve(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        maps = self.mix(torch.cat((q, k, v), dim=1).flatten(3))  # (batch, taps, channels, h · w)
        return self.shift(maps.transpose(1, 2).flatten(1, 2).unflatten(2, q.shape[3:]))


def locations(like: Tensor) -> Tensor:
    """Column and row of every pixel, from -1 to 1: (1, 2, h, w), for a map whose last dimensions are h, w."""
    height, width = like.shape[-2:]
    rows = _from_minus_one_to_one(height, like)[:, None].expand(height, width)
    columns = _from_minus_one_to_one(width, like).expand(height, width)
    return torch.stack((columns, rows))[None]


def _from_minus_one_to_one(length: int, like: Tensor) -> Tensor:
    places = torch.arange(length, device=like.device).to(like.dtype)
    # The last place is read off the tensor, not computed from the length: lengths are symbols in an exported file.
    return places * 2 / places[-1:].clamp(min=1) - 1


def windows(x: Tensor, size: int) -> Tensor:
    """The size×size pixels around each pixel, the map mirrored at its borders without repeating them.

    Shape: (…, h, w) -> (…, h, w, size²), rows first. Maps of any size will do: a mirrored map is mirrored again.
    """
    height, width = x.shape[-2:]
    rows, columns = _mirrored(height, size, x.device), _mirrored(width, size, x.device)
    pixels = rows.view(height, 1, size, 1) * width + columns.view(1, width, 1, size)
    # Gathered: padding and unfolding is not faster, and ties an exported file to maps larger than half a window.
    return x.flatten(-2).index_select(-1, pixels.flatten()).unflatten(-1, (height, width, size**2))


def _mirrored(length: int, size: int, device: torch.device) -> Tensor:
    """For each of ``length`` places the ``size`` indices around it, reflected into the range: (length, size)."""
    places = torch.arange(length, device=device)
    last = places[-1:]
    index = places[:, None] + torch.arange(size, device=device) - size // 2
    within = index.remainder((2 * last).clamp(min=1))
    return last - (last - within).abs()
