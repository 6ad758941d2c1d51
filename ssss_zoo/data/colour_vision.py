"""How far apart two colours look, to people with normal vision and with each of three kinds of colour blindness."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Colour = tuple[int, int, int]

COLOUR_VISIONS = {  # linear RGB as a person sees it (Machado, Oliveira, Fernandes, IEEE TVCG 2009, severity 1)
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
RGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE_XYZ = np.sum(RGB_TO_XYZ, axis=1)  # D65
LAB_EPSILON, LAB_KAPPA = 216 / 24389, 24389 / 27  # CIE 15:2004


def rgb_to_lab(colours: Sequence[Colour], vision: str = "normal") -> np.ndarray:
    """(N, 3) CIE Lab of colours as a person of this vision sees them. vision: a key of COLOUR_VISIONS."""
    encoded = np.asarray(colours, np.float64).reshape(-1, 3) / 255
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(COLOUR_VISIONS[vision]), 0, 1)
    relative = (seen @ np.transpose(RGB_TO_XYZ)) / WHITE_XYZ
    root = np.where(relative > LAB_EPSILON, np.cbrt(relative), (LAB_KAPPA * relative + 16) / 116)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def lab_to_rgb(lightness: float, chroma: float, hue: float) -> Colour:
    """The colour of CIE LCh coordinates, `hue` in degrees; channels outside of 0 to 255 are cut off."""
    y = (lightness + 16) / 116
    x = y + chroma * np.cos(np.radians(hue)) / 500
    z = y - chroma * np.sin(np.radians(hue)) / 200
    root = np.array([x, y, z])
    relative = np.where(root**3 > LAB_EPSILON, root**3, (116 * root - 16) / LAB_KAPPA)
    linear = np.clip(np.linalg.inv(np.array(RGB_TO_XYZ)) @ (relative * WHITE_XYZ), 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (int(channel) for channel in (255 * encoded).round())
    return red, green, blue


def lab_distances(colours: Sequence[Colour], others: Sequence[Colour]) -> np.ndarray:
    """(N, M): the distance in CIE Lab of each colour to each other one, for the vision that tells them apart worst."""
    by_vision = [
        np.linalg.norm(rgb_to_lab(colours, vision)[:, None] - rgb_to_lab(others, vision)[None], axis=2)
        for vision in COLOUR_VISIONS
    ]
    closest: np.ndarray = np.min(by_vision, axis=0)
    return closest
