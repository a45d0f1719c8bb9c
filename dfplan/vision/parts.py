"""The two halves of the autoencoder: pictures to keypoints and features, and back.

A keypoint is where a learned map has its weight: the mean of the pixels' places under a softmax over the map. It
follows a small object to a fraction of a pixel and costs two numbers, where a dense code would need many. The decoder
draws every keypoint as a Gaussian blob, at each of its resolutions, and works from these.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

START = 8  # pixels of the decoder's first grid


def cell_centres(n: int, device: torch.device) -> Tensor:
    """Return the centres of n cells that divide [-1, 1], (n,)."""
    return (torch.arange(n, device=device, dtype=torch.float32) + 0.5) * (2 / n) - 1


def soft_argmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Find where maps have their weight: ``x = sum_p softmax(map)_p x_p``, likewise y.

    Args:
        maps: Logits (B, P, H, W).

    Returns:
        x and y (B, P) in [-1, 1]: to the right and down, from the centre of the picture.

    Source:
        Spatial soft-argmax: arXiv 1509.06113.
    """
    H, W = maps.shape[-2:]
    weight = maps.float().flatten(2).softmax(-1).reshape(maps.shape)
    x = weight.sum(-2) @ cell_centres(W, maps.device)
    y = weight.sum(-1) @ cell_centres(H, maps.device)
    return x, y


def blobs(x: Tensor, y: Tensor, strength: Tensor, n: int) -> Tensor:
    """Draw keypoints as Gaussians whose standard deviation is one cell of an n x n grid.

    ``strength * exp(-((x_p - x)^2 + (y_p - y)^2) / (2 (2/n)^2))``.

    Args:
        x: (B, P), in [-1, 1].
        y: (B, P), in [-1, 1].
        strength: (B, P), the height.
        n: Cells along each side.

    Returns:
        (B, P, n, n).
    """
    centres = cell_centres(n, x.device)

    def along(place: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((centres - place.unsqueeze(-1)) * (n / 2)) ** 2)

    return (strength.unsqueeze(-1) * along(y)).unsqueeze(-1) * along(x).unsqueeze(-2)


class Encoder(nn.Module):
    """Pictures and their difference from the mean picture to keypoints, strengths and features.

    Args:
        size: S, pixels.
        width: Channels at half resolution; twice as many below.
        keypoints: P.
        features: Numbers beside the keypoints.
        cameras: How many share this network.
    """

    def __init__(self, size: int, width: int, keypoints: int, features: int, cameras: int) -> None:
        super().__init__()
        self.keypoints, inner = keypoints, 2 * width
        self.to_half = nn.Conv2d(6, width, 5, 2, 2)
        self.to_quarter = nn.Conv2d(width, inner, 3, 2, 1)
        self.context = nn.Conv2d(inner, inner, 3, 1, 1)
        self.maps = nn.Conv2d(inner, 4 * keypoints, 1)
        self.to_eighth = nn.Conv2d(inner, inner, 3, 2, 1)
        self.to_sixteenth = nn.Conv2d(inner, inner, 3, 2, 1)
        self.rest = nn.Linear(inner * (size // 16) ** 2, keypoints + features)
        self.camera = nn.Parameter(torch.zeros(cameras, inner))

    def forward(self, picture: Tensor, camera: Tensor) -> Tensor:
        """Encode pictures (n, 6, S, S) of cameras int64 (n,); returns (n, 3 P + features)."""
        h = F.relu(self.to_half(picture))
        h = F.relu(self.to_quarter(h) + self.camera[camera][:, :, None, None])
        h = F.relu(self.context(h))
        x, y = soft_argmax(F.pixel_shuffle(self.maps(h), 2))
        h = F.relu(self.to_sixteenth(F.relu(self.to_eighth(h))))
        rest = self.rest(h.flatten(1)).float()
        strength, features = rest[:, : self.keypoints].sigmoid(), rest[:, self.keypoints :].tanh()
        return torch.cat([x, y, strength, features], -1)


class Decoder(nn.Module):
    """Keypoints, strengths and features to pictures: ``gain * mean picture + what differs from it``.

    The gain is one number per picture; at 0 the picture is dark.

    Args:
        size: S, pixels.
        width: Channels at half resolution; twice as many below.
        keypoints: P.
        features: Numbers beside the keypoints.
        cameras: How many share this network.
    """

    def __init__(self, size: int, width: int, keypoints: int, features: int, cameras: int) -> None:
        super().__init__()
        self.keypoints, self.cameras, inner = keypoints, cameras, 2 * width
        self.start = nn.Linear(3 * keypoints + features + cameras, width * START**2)
        stages, n, channels = [], START, width
        while n < size // 2:
            n *= 2
            out = inner if n < size // 2 else width
            stages.append(nn.Conv2d(channels + keypoints + 2, out, 3, 1, 1))
            channels = out
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(channels, 12, 3, 1, 1)
        self.gain = nn.Linear(3 * keypoints + features, 1)
        nn.init.constant_(self.gain.bias, 3.0)

    def forward(self, latent: Tensor, camera: Tensor, mean: Tensor) -> Tensor:
        """Decode latents (n, 3 P + features) of cameras int64 (n,) over mean pictures (n, 3, S, S)."""
        x, y, strength = latent[:, : 3 * self.keypoints].chunk(3, -1)
        one_hot = F.one_hot(camera, self.cameras).to(latent)
        h = F.relu(self.start(torch.cat([latent, one_hot], -1))).reshape(len(latent), -1, START, START)
        for stage in self.stages:
            h = F.interpolate(h, scale_factor=2.0, mode="nearest")
            n = h.shape[-1]
            place = cell_centres(n, h.device).expand(n, n)
            grid = torch.stack([place, place.T]).expand(len(h), -1, -1, -1)
            h = F.relu(stage(torch.cat([h, blobs(x, y, strength, n).to(h), grid.to(h)], 1)))
        differs = F.pixel_shuffle(self.head(h), 2)
        gain: Tensor = self.gain(latent).float().sigmoid()
        return gain[:, :, None, None] * mean + differs.float()
