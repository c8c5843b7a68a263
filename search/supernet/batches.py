"""Training batches of a subject."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from irepdeploy.data import Augmentation, Loader, Split, Stream, StreamLoader
from irepdeploy.data.centre_crop import CentreCrop
from irepdeploy.data.changed_objects import ChangedObjects, RawObjects
from irepdeploy.data.coco import ObjectFiles
from irepdeploy.detect.augmentation import ObjectAugmentation
from irepdeploy.errors import RecipeError
from irepdeploy.recipe import AugmentSection
from irepdeploy.tasks import Classification, Detection

from .subject import Subject

__all__ = ["Batches", "batches_of", "with_last"]


# Augmentations of images with boxes.
_OF_OBJECTS = ("scales", "crop_pad", "photometric")


class Batches(Protocol):
    """Batches of inputs and targets on the device; each iteration is an epoch."""

    def __len__(self) -> int:
        """Return the number of batches per epoch, or 0 if unknown."""
        ...

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]: ...


def batches_of(
    subject: Subject,
    batch_size: int,
    order: torch.Generator,
    augment: AugmentSection,
    check: Callable[[Any], None] | None,
    device: torch.device,
    *,
    rank: int = 0,
    ranks: int = 1,
) -> Batches:
    """Return the training batches of a subject; `check` is called with the targets of a stream in its first epoch.

    Raises:
        RecipeError: The augmentation would move images but not their targets, or mix targets that are not classes.
    """
    train = subject.train
    given = check or (lambda targets: None)
    augmentation = Augmentation(**augment.model_dump(exclude=set(_OF_OBJECTS)))
    if isinstance(subject.task, Detection):
        if augmentation != Augmentation(flip=augment.flip):
            raise RecipeError(f"images with boxes take only flip, {', '.join(_OF_OBJECTS)}", where="augment")
        assert not isinstance(train, Split)
        scales, stride = () if augment.crop_pad else augment.scales, _stride(subject.net)
        if augment.crop_pad % stride:
            text = f"expected a multiple of {stride}, the stride of the network, got {augment.crop_pad}"
            raise RecipeError(text, where="augment.crop_pad")
        change = ObjectAugmentation(augment.flip, scales, stride)
        # All crops have the same size.
        upright = () if augment.crop_pad or not isinstance(train.source, ObjectFiles) else train.source.upright
        train = _changed(train, augment)
        return StreamLoader(
            train, batch_size, order, given, change=change, device=device, rank=rank, ranks=ranks, upright=upright
        )
    for name in _OF_OBJECTS:
        if getattr(augment, name):
            hint = "area resizes others" if name == "scales" else None
            raise RecipeError(f"{name} is for images with boxes", where=f"augment.{name}", hint=hint)
    if isinstance(train, Split) and (train.labels.ndim == 1 or augmentation == Augmentation()):
        classes = _classes(subject) if augmentation.mixes else None
        return Loader(train, batch_size, order, augmentation, device=device, rank=rank, ranks=ranks, classes=classes)
    if augmentation != Augmentation():
        raise RecipeError(
            "only images in memory with one label each are augmented", where="augment", hint="do it in the Dataset"
        )
    assert not isinstance(train, Split)
    return StreamLoader(train, batch_size, order, given, device=device, rank=rank, ranks=ranks)


def with_last(batches: Iterable[Any]) -> Iterator[tuple[int, Any, bool]]:
    """Yield the index of each batch, the batch, and whether it is the last one."""
    before: tuple[int, Any] | None = None
    for step, batch in enumerate(batches):
        if before is not None:
            yield *before, False
        before = step, batch
    if before is not None:
        yield *before, True


def _changed(train: Stream, augment: AugmentSection) -> Stream:
    """Return the stream with images cropped and distorted before normalization."""
    if not augment.crop_pad and not augment.photometric:
        return train
    if not isinstance(train.source, RawObjects):
        name = "crop_pad" if augment.crop_pad else "photometric"
        text = "it needs images that are not normalized yet, as in coco and shapes"
        raise RecipeError(text, where=f"augment.{name}", hint="do it in the Dataset")
    crop = CentreCrop(augment.crop_pad, augment.scales or (1.0,)) if augment.crop_pad else None
    return train.of(ChangedObjects(train.source, augment.photometric, crop))


def _stride(net: nn.Module) -> int:
    return int(getattr(net, "stride", 32))


def _classes(subject: Subject) -> int:
    """Return the number of the network's classes."""
    if not isinstance(subject.task, Classification):
        raise RecipeError(
            f"mixup and cutmix mix labels of classes, which the task {subject.task.name} does not have", where="augment"
        )
    weight = next(subject.net.parameters())
    with torch.inference_mode():
        found = copy.deepcopy(subject.net).eval()(torch.zeros(1, *subject.input_shape).to(weight))
    return int(subject.task.outputs(found).shape[1])
