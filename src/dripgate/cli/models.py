"""The options by which a user says which model it is, and what its file cannot say."""

import math
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dripgate.cli.common import LARGEST_SIDE, a_file
from dripgate.errors import UserError
from dripgate.types import ImageInput, InputSpec

if TYPE_CHECKING:  # the command line starts without the extra 'fit'
    from dripgate.fitting.brought import Said


class Described(NamedTuple):
    """What the options say. size: (height, width) of images, where the file leaves them open."""

    model: str
    weights: Path | None
    trust: bool
    size: tuple[int, int] | None
    said: "Said"
    classes: tuple[str, ...] | None
    output: str | None

    def check(self, spec: InputSpec) -> None:
        """Raises UserError where a size was said that the model's file says otherwise."""
        found = (spec.height, spec.width) if isinstance(spec, ImageInput) else None
        if self.size and self.size != found:
            said = f"{self.size[0]},{self.size[1]}"
            raise UserError(
                f"--size is {said}, but {self.model} takes "
                f"{f'images of {found[0]},{found[1]}' if found else 'no images'}; leave --size out"
            )


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--model and all that says more of it, as one argument ``described`` of the command."""

    @wraps(command)  # with the options that it has already
    def wrapped(**options: Any) -> Any:
        taken = {name: options.pop(name) for name in _NAMES}
        return command(described=_described(**taken), **options)

    made: Callable[..., Any] = wrapped
    for option in reversed(_OPTIONS):
        made = option(made)
    return made


_NAMES = (
    "model", "weights", "trust", "preprocess", "mean", "std", "range_", "layout", "bgr", "features",
    "classes", "output", "size",
)  # fmt: skip
_OPTIONS = [
    click.option(
        "--model", required=True, shell_complete=a_file,
        help="An .onnx or .tflite file, safetensors of 'train', timm:NAME, hf:FOLDER, or "
        "package.module:factory.",
    ),
    click.option("--weights", type=click.Path(path_type=Path), help="Weights as safetensors."),
    click.option(
        "--trust", is_flag=True,
        help="Open an archive of TorchScript or torch.export, which may hold code.",
    ),
    click.option(
        "--preprocess", default="auto", show_default=True,
        help="What pixels become: imagenet, tf (-1…1), 0-1, 0-255, int8, caffe, each also with "
        "' bgr'; auto takes what gives the best accuracy on DATA.",
    ),
    click.option("--mean", help="Mean of pixels from 0 to 1, one number or one per channel."),
    click.option("--std", help="Their deviation."),
    click.option("--range", "range_", help="What pixels 0 and 255 become, such as -1,1."),
    click.option("--layout", type=click.Choice(["channels_first", "channels_last"]),
                 help="Of the model's input, where its shape leaves it open."),
    click.option("--bgr", is_flag=True, help="Blue comes first."),
    click.option("--features", help="How sound becomes the model's input, such as 'mfcc "
                 "window=30ms hop=20ms bins=40 coefficients=10'."),
    click.option("--classes", type=click.Path(path_type=Path),
                 help="The outputs' names, one per line; by default from the model's file, else "
                 "DATA's folders in sorted order."),
    click.option("--output", help="Name of the output with the classes, if there are several."),
    click.option("--size", help="Images' height,width (or one side), where the model's file "
                 "leaves them open."),
]  # fmt: skip


def _described(
    model: str, weights: Path | None, trust: bool, preprocess: str, mean: str | None,
    std: str | None, range_: str | None, layout: str | None, bgr: bool, features: str | None,
    classes: Path | None, output: str | None, size: str | None,
) -> Described:  # fmt: skip
    from dripgate.fitting.conventions import Pixels
    from dripgate.fitting.features import Features
    from dripgate.fitting.names import read_names

    said: Said = preprocess
    if any((mean, std, range_, layout, bgr)):
        if preprocess != "auto":
            raise UserError(
                f"--preprocess {preprocess} beside --mean, --std, --range, --layout or --bgr; "
                "say one or the other"
            )
        said = Pixels(
            _numbers(mean or "0", "--mean"), _numbers(std or "1", "--std"),
            _pair(range_, "--range") if range_ else None, layout, bgr,
        )  # fmt: skip
    if features:
        said = Features.parse(features)
    return Described(
        model, weights, trust, _sides(size) if size else None, said,
        read_names(classes) if classes else None, output,
    )  # fmt: skip


def _sides(text: str) -> tuple[int, int]:
    height, width = _pair(text if "," in text else f"{text},{text}", "--size")
    if not all(side.is_integer() and 0 < side <= LARGEST_SIDE for side in (height, width)):
        raise UserError(f"--size is '{text}', expected whole numbers from 1 to {LARGEST_SIDE:,}")
    return int(height), int(width)


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
        if all(map(math.isfinite, numbers)):
            return numbers
        raise ValueError(text)
    except ValueError:
        raise UserError(
            f"{option} is '{text}', expected one number, or several with commas"
        ) from None


def _pair(text: str, option: str) -> tuple[float, float]:
    values = _numbers(text, option)
    if len(values) != 2 or (values[0] == values[1] and option == "--range"):
        raise UserError(f"{option} is '{text}', expected two numbers with a comma")
    return values[0], values[1]
