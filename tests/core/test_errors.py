"""Texts of errors: short, printable, without C++."""

from __future__ import annotations

import time

import pytest

from irepdeploy.errors import InputError, choices, counted, few, first_line, one_line, short_line


def test_a_wrong_name_gets_near_ones_or_a_few_of_many() -> None:
    names = [f"network{index}" for index in range(40)]
    assert choices("network39x", names).startswith("did you mean network39 or ")
    assert choices("other", names) == f"one of {', '.join(names[:6])}, ... (34 more)"
    assert few(iter(names[:7])) == ", ".join(names[:7]) and few([]) == ""


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            "[ONNXRuntimeError] : 1 : FAIL : Load model from x.onnx failed:/onnxruntime_src/core/graph/model.cc"
            ":181 onnxruntime::Model::Model(onnx::ModelProto&&, const std::function<void(int)>&, const Options&) "
            "Unsupported model IR version: 99",
            "Load model from x.onnx failed: Unsupported model IR version: 99",
        ),
        (
            "/onnxruntime_src/include/op_kernel_context.h:42 const T* onnxruntime::OpKernelContext::Input(int) const "
            "[with T = onnxruntime::Tensor] Missing Input: x",
            "Missing Input: x",
        ),
        (
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Non-zero status code returned while running If node. "
            "Name:'If_0' Status Message: Non-zero status code returned while running LSTM node. Name:'a b' Status "
            "Message: Input X must have 3 dimensions only. Actual:{1,2}",
            "LSTM node 'a b': Input X must have 3 dimensions only. Actual:{1,2}",
        ),
        (
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory",
            "DefaultCPUAllocator: can't allocate memory",
        ),
        (
            "failed finding central directory\nException raised from valid at ../inline_container.cc:184 (most recent "
            "call first):\nframe #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x57",
            "failed finding central directory",
        ),
        (
            "f(): incompatible function arguments. The following argument types are supported:\n    1. (self: X)\n",
            "f(): incompatible function arguments.",
        ),
        ("two\n  lines \x1b[31m", "two lines \\x1b[31m"),
    ],
)
def test_foreign_texts_are_without_cpp(text: str, kept: str) -> None:
    assert one_line(RuntimeError(text)) == kept


@pytest.mark.parametrize(
    "text", ["a::b ", "a::b(", "a::b() ", "a ", "x/y.c", "[enforce fail at ", "<a, b>::", " \n", "(at a.cc:1 "]
)
def test_a_long_name_in_a_foreign_text_takes_no_time(text: str) -> None:
    start = time.process_time()
    assert len(one_line(RuntimeError("::" + text * 20_000))) <= 300
    assert time.process_time() - start < 5


def test_the_first_line_of_a_foreign_text() -> None:
    assert first_line(ValueError("a \x07\nb")) == "a \\x07"
    assert first_line(KeyError()) == "KeyError"


def test_a_long_line_keeps_what_is_wrong() -> None:
    error = InputError("no such file", where="a" * 5000, hint="b" * 5000)
    line = short_line(error)
    assert len(line) == 400 and "aaa...aaa" in line and ": no such file (bbb" in line
    assert line.endswith("... (--debug shows all)")
    assert short_line(error, 20_000) == error.line
    assert short_line(InputError("what", where="here")) == "here: what"


def test_numbers_and_their_nouns() -> None:
    assert [counted(count, "node") for count in (0, 1, 2048)] == ["0 nodes", "1 node", "2,048 nodes"]
    assert counted(1, "branch", "branches") == "1 branch" and counted(2, "branch", "branches") == "2 branches"
