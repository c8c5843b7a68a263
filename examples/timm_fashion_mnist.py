"""Search, train, fuse, export and verify a network of timm on Fashion-MNIST.

    pip install timm && sudo apt-get install dataset-fashion-mnist
    python examples/timm_fashion_mnist.py

On a CPU a smaller network and fewer images take minutes: main("test_resnet", train=2000) took 229 s of processor time
on one thread (timm 1.0.31, torch 2.14.1), and printed

    42 branches, accuracy by shared weights 74.7%
    test accuracy 76.0% [75.2%, 76.8%], binomial (Wilson)
"""

import functools

import timm
import torch

import irepdeploy as ird
from irepdeploy.data.fashion_mnist import fashion_mnist
from irepdeploy.testing import assert_equivalent


def main(name="resnet10t", root=None, verify=True, train=None, val=5000, evolutions=4, epochs=4, out="fashion"):
    # `root` is a folder with the four IDX files, if they are not from the Debian package.
    data = fashion_mnist(root=root, verify=verify, train=train, val=val)
    build = functools.partial(timm.create_model, name, in_chans=1, num_classes=len(data.classes))
    both = {"train": data.train, "val": data.val, "batch_size": 128, "augment": {"flip": True, "crop": 2}}
    found = ird.search(
        build, **both, budget="1/2", population=16, warmup_epochs=1, evolutions=evolutions, out=f"{out}/search"
    )
    print(f"{found.best.count} branches, accuracy by shared weights {found.fitness.value:.1%}")
    done = ird.train(
        build,
        **both,
        test=data.load_test(),
        architecture=found.best,
        epochs=epochs,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=2e-3),
        out=f"{out}/train",
    )
    test = done.scores["test"]
    print(f"test accuracy {test.figures['accuracy']:.1%} [{test.low:.1%}, {test.high:.1%}], {test.method}")
    images = data.load_test().images[:8]
    assert ird.compare(done.model, ird.fuse(done.model), images).ok
    ird.export_model(done.model, out=f"{out}/onnx")
    assert_equivalent(done.model, f"{out}/onnx/model.onnx")
    return found, done


if __name__ == "__main__":
    main()
