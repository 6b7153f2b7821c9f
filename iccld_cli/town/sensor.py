"""From light to a stored picture: anti-aliasing, exposure, blur, noise, compression."""

from __future__ import annotations

import cv2
import numpy as np

from iccld_cli.town.looks import Sensor

LUMA = np.array([0.3, 0.59, 0.11], np.float32)


def _luma(image: np.ndarray) -> np.ndarray:
    """Brightness (H, W) of a picture (H, W, 3); one pass, where a matrix product of three columns is slow."""
    return cv2.transform(image, LUMA[None])


def _filmic(x: np.ndarray) -> np.ndarray:
    """Compresses linear light to 0..1 with a soft shoulder."""
    return x * (2.2 * x + 0.35) / (x * (2.0 * x + 0.75) + 0.28)


def bonnet_mask(sensor: Sensor, size: tuple[int, int]) -> np.ndarray:
    """Pixels (H, W) bool hidden by the own bonnet; size is (width, height)."""
    width, height = size
    x = (np.arange(width) + 0.5) / width * 2 - 1
    top = height * (1 - sensor.bonnet * (1 - 0.45 * x * x))
    return (np.arange(height)[:, None] >= top[None, :]) & (sensor.bonnet > 0)


def _draw_bonnet(image: np.ndarray, sensor: Sensor, sky: np.ndarray) -> None:
    height, width = image.shape[:2]
    mask = bonnet_mask(sensor, (width, height))
    if mask.any():
        depth = np.cumsum(mask, 0) / max(mask.sum(0).max(), 1)
        tone = 0.04 + 0.22 * np.exp(-depth * 9)
        image[mask] = (tone[..., None] * sky)[mask]


def _motion(image: np.ndarray, length: float) -> np.ndarray:
    """Vertical blur of ``length`` pixels, as a bumpy road gives."""
    if length < 0.7:
        return image
    n = int(np.ceil(length)) | 1
    kernel = np.ones((n + 2, 1), np.float32)
    kernel[0] = kernel[-1] = max(length - n, 0.0) / 2 + 0.15
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _rain(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Falling drops, drawn out by the exposure, and blurred drops on the windscreen before the lens."""
    height, width = image.shape[:2]
    length = max(round(height * 0.06), 3)
    drops = (rng.random((height, width), np.float32) < 0.004 * strength).astype(np.float32)
    kernel = np.zeros((length, length), np.float32)
    lean = rng.uniform(-0.35, 0.35)
    for k in range(length):
        kernel[k, round((length - 1) / 2 + lean * (k - (length - 1) / 2))] = 1
    lines = np.minimum(cv2.filter2D(drops, -1, kernel) * rng.uniform(0.05, 0.16), 0.3)[..., None]
    sky = np.float32(image[: max(height // 3, 1)].mean())
    image = image + lines * (np.float32(1.1) * sky - 0.4 * image)
    mask = np.zeros((height, width), np.float32)
    for _ in range(rng.poisson(14 * strength)):
        at = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(mask, at, max(round(float(rng.uniform(0.004, 0.014)) * width), 1), 1.0, -1, cv2.LINE_AA)
    mask = cv2.GaussianBlur(mask, (0, 0), max(0.003 * width, 0.5))[..., None]
    # A drop is a small lens: it shows the scene upside down and out of focus.
    bent = cv2.GaussianBlur(image[::-1], (0, 0), max(0.02 * width, 1.0))
    return image + 0.75 * mask * (0.5 * bent + 0.5 * sky - image)


def expose(light: np.ndarray, sensor: Sensor, sky: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turns linear light into the stored picture.

    Args:
        light: Linear RGB (H, W, 3) float32.
        sensor: Camera electronics.
        sky: Linear RGB (3,) that the own bonnet mirrors.
        rng: Source of the noise of this frame.

    Returns:
        Display RGB (H, W, 3) uint8.
    """
    image = np.maximum(light, 0)
    height, width = image.shape[:2]
    scale = width / 512
    _draw_bonnet(image, sensor, sky.astype(np.float32))
    if sensor.metering:
        # Like a real camera: expose for the lower part of the picture and let the sky clip.
        middle = np.minimum(_luma(image[min(round(height * sensor.metered), height - 1) :]), 1.5).mean()
        gain = np.clip(0.25 / max(float(middle), 1e-4), 0.5, sensor.gain) ** sensor.metering
        image = image * np.float32(gain)
    if sensor.bloom:
        # A glow that wide holds nothing that a quarter of the resolution would lose.
        small = (max(width // 4, 1), max(height // 4, 1))
        over = cv2.resize(np.minimum(np.maximum(image - 0.7, 0), 4), small, interpolation=cv2.INTER_AREA)
        over = cv2.GaussianBlur(over, (0, 0), 5 / 4 * scale)
        over += 0.5 * cv2.GaussianBlur(over, (0, 0), 14 / 4 * scale)
        image = image + np.float32(sensor.bloom) * cv2.resize(over, (width, height), interpolation=cv2.INTER_LINEAR)
    if sensor.streaks:
        image = _rain(image, sensor.streaks, rng)
    if sensor.defocus:
        image = cv2.GaussianBlur(image, (0, 0), max(sensor.defocus * scale, 0.25), borderType=cv2.BORDER_REPLICATE)
        image = _motion(image, sensor.motion * scale)
    image = image * (sensor.exposure * sensor.balance).astype(np.float32)
    if sensor.vignette:
        y = (np.arange(height, dtype=np.float32) / height - 0.5)[:, None]
        x = (np.arange(width, dtype=np.float32) / width - 0.5)[None, :]
        image *= (1 - sensor.vignette * 1.6 * (x * x + y * y))[..., None]
    image = np.sqrt(np.clip(_filmic(image), 0, 1))
    grey = _luma(image)[..., None]
    image = grey + (image - grey) * np.float32(sensor.saturation)
    image = (image - 0.5) * np.float32(sensor.contrast) + 0.5
    image = image * np.float32(1 - sensor.lift) + np.float32(sensor.lift)
    if sensor.sharpen:
        soft = cv2.GaussianBlur(image, (0, 0), max(0.9 * scale, 0.4), borderType=cv2.BORDER_REPLICATE)
        image = image + np.float32(sensor.sharpen) * (image - soft)
    if sensor.noise:
        # Chroma noise is coarser than luma noise, because the sensor's colours are interpolated.
        grain = rng.standard_normal((height, width, 1), np.float32)
        color = cv2.GaussianBlur(rng.standard_normal((height, width, 3), np.float32), (0, 0), 0.9)
        image = image + np.float32(sensor.noise) * (grain + 1.1 * color) * (1.25 - np.clip(grey, 0, 1))
    stored = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    if sensor.jpeg:
        ok, data = cv2.imencode(".jpg", stored[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg])
        assert ok
        stored = np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])
    return stored
