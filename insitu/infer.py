"""Run inputs on a device, and say how fast and how right that was."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.device import Device, Loaded
from insitu.errors import DeviceError
from insitu.evaluate import Inputs
from insitu.image import Image

__all__ = ["infer", "make_ready"]

Int8 = NDArray[np.int8]


def make_ready(device: Device, image: Image | None) -> Loaded:
    """What the device will run: `image`, loaded if it is not there yet, or what it has.

    Raises
    ------
    ImageError
        If the image is for another configuration.
    DeviceError
        If there is neither, or the link fails.
    """
    if image is not None:
        loaded = Loaded.of_image(image)
        return loaded if device.holds(loaded) else device.load(image)
    found = device.loaded()
    if found is None:
        raise DeviceError(
            "the device has no image that it could name",
            "load one: insitu load IMAGE --port PORT; or name it: insitu infer IMAGE --port PORT",
        )
    return found


def infer(device: Device, loaded: Loaded, inputs: Inputs) -> tuple[dict[str, Any], Int8]:
    """Run inputs on a device.

    Parameters
    ----------
    device : Device
    loaded : Loaded
    inputs : Inputs

    Returns
    -------
    (dict, int8 [N, H, W, C])
        Figures as plain data, and the outputs.

    Raises
    ------
    DeviceError
        If the link or the device fails.
    """
    batch = device.run(loaded, [loaded.input.place(one) for one in inputs.integers])
    outputs = np.stack([loaded.output.take(data) for data in batch.outputs])
    classes = outputs.reshape(len(outputs), -1).argmax(axis=1)
    config = device.identity.configuration
    report: dict[str, Any] = {
        "network": loaded.network,
        "configuration": None if config is None else config.name,
        "samples": len(outputs),
        "cycles": batch.cycles,
        "predicted_cycles": loaded.cycles,
        "seconds": round(batch.seconds, 3),
        "frames_per_second": {"end_to_end": round(len(outputs) / batch.seconds, 3)},
        "retries": device.retries,
        "classes": classes.tolist(),
    }
    if config is not None:
        report["clock_mhz"] = config.clock_hz / 1e6
        report["frames_per_second"]["compute"] = round(config.clock_hz / batch.cycles, 1)
    if inputs.labels is not None:
        report["accuracy"] = float(np.mean(classes == inputs.labels))
    return report, outputs
