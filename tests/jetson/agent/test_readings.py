"""Recorded output of programs and files of boards; each recording names its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from irepdeploy.board.board_files import BoardFiles
from irepdeploy.board.jetpack import jetpack_of, parse_tegra_release
from irepdeploy.board.nvpmodel import asks_reboot, current_mode, needs_reboot, parse_mode, parse_modes
from irepdeploy.board.thermal import ThermalReader
from irepdeploy.jetson.agent.clocks import ClockReader, parse_memory_clock
from irepdeploy.jetson.agent.energy import energy
from irepdeploy.jetson.agent.rails import RailReader, module_mw, parse_rails
from irepdeploy.jetson.agent.sampler import Sample, Sampler, mean_rails
from support.fake_board import FakeBoard

# github.com/DataDog/datadog-agent, pkg/collector/corechecks/nvidia/jetson, its tests: AGX Xavier on JetPack 4.
AGX_XAVIER = (
    "RAM 721/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU [2%@1190,0%@1190,0%@1190,0%@1190,off,off,off,"
    "off] EMC_FREQ 0%@665 GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37.5C Tdiode@40C PMIC@100C AUX@36C "
    "CPU@37.5C thermal@36.9C Tboard@37C GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482"
)
# github.com/martinkersner/gtop, pull request 7: an AGX Xavier without the clocks of GPU and memory.
AGX_XAVIER_USER = (
    "RAM 14700/15692MB (lfb 3x2MB) SWAP 898/8192MB (cached 23MB) CPU [0%@1190,0%@1190,0%@1190,0%@1190,0%@1190,"
    "0%@1190,0%@1190,0%@1190] EMC_FREQ 0% GR3D_FREQ 0% AO@30C GPU@30.5C Tboard@31C Tdiode@32C AUX@30.5C CPU@31.5C "
    "thermal@30.8C PMIC@100C GPU 463/463 CPU 618/618 SOC 2936/2936 CV 0/0 VDDRQ 309/309 SYS5V 3306/3306"
)
# The Datadog tests again: an Orin on JetPack 5, with units.
ORIN_UNITS = (
    "RAM 6334/15388MB (lfb 1770x4MB) SWAP 491/7694MB (cached 0MB) CPU [6%@729,9%@729,5%@729,16%@729,off,off,off,"
    "off] EMC_FREQ 0%@2133 GR3D_FREQ 0%@611 VIC_FREQ 729 APE 174 CV0@45.812C CPU@47.937C SOC2@46.093C SOC0@46.968C "
    "CV1@46.406C GPU@45.875C tj@48.875C SOC1@48.875C CV2@45.75C VDD_IN 5299mW/5299mW VDD_CPU_GPU_CV 773mW/773mW "
    "VDD_SOC 1424mW/1424mW"
)
# And of L4T 36, with two clocks of the GPU.
ORIN_36 = (
    "RAM 29114/30697MB (lfb 3x4MB)    SWAP 4915/15348MB (cached 1MB) CPU [3%@729,4%@729,0%@729,1%@729,0%@2201,"
    "100%@2201,1%@2201,0%@2201,100%@2201,0%@2201,0%@2201,0%@2201] EMC_FREQ 1%@2133 GR3D_FREQ 0%@[305,305] NVENC    "
    "  off  NVDEC    off NVJPG off NVJPG1    off         VIC        off          OFA           off          NVDLA0 "
    "   off       NVDLA1     off          PVA0_FREQ off         APE           174        cpu@53.062C soc2@48.25C "
    "soc0@48.843C  gpu@47.812C tj@53.062C soc1@48.968C    VDD_GPU_SOC 3205mW/3205mW VDD_CPU_CV 4405mW/4405mW "
    "VIN_SYS_5V0 4767mW/4767mW"
)


# github.com/DataDog/datadog-agent, older: now and mean differ.
OLDER = "GPU 0/16 CPU 310/432 SOC 931/953 CV 0/0 VDDRQ 466/488 SYS5V 1522/1559"


@pytest.mark.parametrize(
    ("line", "rails_mw", "module"),
    [
        (AGX_XAVIER, {"GPU": 0, "CPU": 311, "SOC": 932, "CV": 0, "VDDRQ": 621, "SYS5V": 1482}, 3346),
        (AGX_XAVIER_USER, {"GPU": 463, "CPU": 618, "SOC": 2936, "CV": 0, "VDDRQ": 309, "SYS5V": 3306}, 7632),
        (ORIN_UNITS, {"VDD_IN": 5299, "VDD_CPU_GPU_CV": 773, "VDD_SOC": 1424}, 5299),
        (ORIN_36, {"VDD_GPU_SOC": 3205, "VDD_CPU_CV": 4405, "VIN_SYS_5V0": 4767}, 12377),
        (OLDER, {"GPU": 0, "CPU": 310, "SOC": 931, "CV": 0, "VDDRQ": 466, "SYS5V": 1522}, 3229),
        ("", {}, None),
    ],
)
def test_rails_of_tegrastats(line: str, rails_mw: dict[str, float], module: float | None) -> None:
    assert parse_rails(line) == rails_mw
    assert module_mw(rails_mw) == module


@pytest.mark.parametrize(
    ("text", "l4t", "jetpack"),
    [
        # First lines of /etc/nv_tegra_release, as several repositories quote them.
        ("# R32 (release), REVISION: 7.1, GCID: 29689809, BOARD: t186ref", "32.7.1", "4.6.1 or newer"),
        ("# R32 (release), REVISION: 6.1, GCID: 27863751, BOARD: t210ref, EABI: aarch64", "32.6.1", "4.6"),
        ("# R35 (release), REVISION: 2.1, GCID: 32398013, BOARD: t186ref, EABI: aarch64, DATE: Sun", "35.2.1", "5.1"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue", "35.4.1", "5.1"),
        ("# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64", "36.4.0", "6.1 or newer"),
    ],
)
def test_release(text: str, l4t: str, jetpack: str) -> None:
    found = parse_tegra_release(text)
    assert found is not None and str(found) == l4t
    known = jetpack_of(found)
    assert known is not None and known.name == jetpack


@pytest.mark.parametrize("text", ["", "# KERNEL_VARIANT: oot", "R (release), REVISION: x"])
def test_no_release(text: str) -> None:
    assert parse_tegra_release(text) is None


def test_unknown_release() -> None:
    found = parse_tegra_release("# R34 (release), REVISION: 1.1, GCID: 30414990")
    assert found is not None and jetpack_of(found) is None


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        # whisper.cpp notes of an Orin's user; a guide to AGX Orin, with a warning before.
        ("NV Power Mode: MODE_15W_6CORE\n2\n", (2, "MODE_15W_6CORE")),
        ("NVPM WARN: fan mode is not set to cool\nNV Power Mode: MODE_30W_2CORE\n2\n", (2, "MODE_30W_2CORE")),
        # nvpmodel -q --verbose of a Xavier NX.
        ("NVPM VERB: parsing done for /etc/nvpmodel.conf\nNV Fan Mode:quiet\nNVPM VERB: Current mode: NV Power Mode: "
         "MODE_15W_6CORE\n2\nNVPM VERB: PARAM CPU_ONLINE: ARG CORE_0: PATH", (2, "MODE_15W_6CORE")),
        ("NV Power Mode: MAXN SUPER\n2\n", (2, "MAXN SUPER")),
        # /var/lib/nvpmodel/status of JetPack 5.
        ("pmode:0007 fmode:quiet", (7, None)),
        ("pmode:0000", (0, None)),
    ],
)  # fmt: skip
def test_power_mode(text: str, mode: tuple[int, str | None]) -> None:
    assert parse_mode(text) == mode


def test_no_power_mode() -> None:
    assert parse_mode("NVPM ERROR: No current power mode") is None


def test_power_modes() -> None:
    # nvpmodel -p --verbose of a TX2, and the configuration's own form.
    verbose = "NVPM VERB: PM_CONFIG: DEFAULT=MAXP_CORE_ARM(3)\nNVPM VERB: POWER_MODEL: ID=0 NAME=MAXN\n"
    assert parse_modes(verbose) == [(0, "MAXN")]
    assert parse_modes("< POWER_MODEL ID=2 NAME=B >\n< POWER_MODEL ID=0 NAME=A >") == [(0, "A"), (2, "B")]


def test_what_needs_a_reboot(board: FakeBoard) -> None:
    text = (board.root / "etc/nvpmodel.conf").read_text()
    assert needs_reboot(text, 7, 0) is False
    assert needs_reboot(text, 7, 1) is True and needs_reboot(text, 1, 0) is True
    assert needs_reboot(text, 7, 9) is None and needs_reboot("", 7, 0) is None
    # A comment gates nothing, and lines after the modes belong to none of them.
    commented = "< POWER_MODEL ID=0 NAME=A >\n#TPC_POWER_GATING TPC_PG_MASK 1\n< POWER_MODEL ID=1 NAME=B >\n"
    assert needs_reboot(commented + "< PM_CONFIG >\nTPC_POWER_GATING TPC_PG_MASK 3\n", 0, 1) is False


def test_words_of_a_reboot() -> None:
    # A real device, declined: github.com/viamrobotics, jetson power mode test.
    assert asks_reboot(
        "NVPM WARN: Golden image context is already created\n"
        "NVPM WARN: Reboot required for changing to this power mode: 1\n"
        "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:\n"
        "NVPM ERROR: optMask is 1, no request for power mode"
    )
    assert not asks_reboot("NV Power Mode: MAXN\n0")


def test_memory_clock_of_jetson_clocks() -> None:
    # The CPU line of a Xavier (comment in jetson_stats), GPU, EMC and fan of an Orin Nano's user.
    read = parse_memory_clock(
        "SOC family:tegra194  Machine:Jetson-AGX\n"
        "cpu0: Online=1 Governor=schedutil MinFreq=1190400 MaxFreq=2265600 CurrentFreq=1574400 IdleStates: C1=1 c6=1\n"
        "GPU MinFreq=318750000 MaxFreq=675750000 CurrentFreq=318750000\n"
        "EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride=0\n"
        "FAN Dynamic Speed Control=kernel hwmon0_pwm1=88\n"
    )
    assert read == {"current_hz": 2133000000, "min_hz": 204000000, "max_hz": 2133000000}
    assert parse_memory_clock("Error: Run this script as a root user") is None


@pytest.mark.parametrize("jetpack", [4, 5])
def test_monitors_of_both_kernels(tmp_path: Path, jetpack: int) -> None:
    FakeBoard(tmp_path, jetpack=jetpack)
    reader = RailReader(BoardFiles(str(tmp_path)))
    read = reader.read()
    # hwmon's seventh channel is a sum of shunts.
    assert list(read) == [rail.name for rail in reader.rails] == ["GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"]
    assert read["SOC"] == (2935 if jetpack == 4 else pytest.approx(2935.856))


def test_rails_that_cannot_be_read(board: FakeBoard) -> None:
    reader = RailReader(BoardFiles(str(board.root)))
    device = board.root / "sys/bus/i2c/devices/1-0040/hwmon/hwmon3"
    (device / "curr2_input").unlink()
    board.write(str(device.relative_to(board.root) / "in3_input"), "x")
    assert list(reader.read()) == ["GPU", "CV", "VDDRQ", "SYS5V"]
    (device / "in1_label").write_text("NC\n")
    assert "GPU" not in [rail.name for rail in RailReader(BoardFiles(str(board.root))).rails]


def test_power_of_a_module() -> None:
    assert module_mw({"GPU": 1.0, "CPU": 2.0}) == 3.0
    assert module_mw({"VDD_IN": 5.0, "VDD_SOC": 2.0}) == 5.0
    assert module_mw({}) is None


def test_temperatures(board: FakeBoard) -> None:
    read = ThermalReader(BoardFiles(str(board.root))).read()
    assert read == {"CPU": 31.5, "GPU": 30.5, "AUX": 30.5, "AO": 30.0, "Tdiode_tegra": 32.0}


def test_clocks(board: FakeBoard) -> None:
    reader = ClockReader(BoardFiles(str(board.root)))
    read = reader.read()
    assert read["gpu"] == {"current_hz": 318750000, "min_hz": 318750000, "max_hz": 675750000}
    assert read["emc"] is None
    assert [core["cpu"] for core in read["cpu"]] == list(range(8))
    assert [core["online"] for core in read["cpu"]] == [True] * 4 + [False] * 4
    assert reader.cpu_hz() == 1190400000 and reader.pinned_gpu_hz() is None
    emc = "sys/kernel/debug/bpmp/debug/clk/emc"
    for name, value in (("rate", 2133000000), ("min_rate", 204000000), ("max_rate", 2133000000)):
        board.write(f"{emc}/{name}", value)
    assert reader.read()["emc"] == {"current_hz": 2133000000, "min_hz": 204000000, "max_hz": 2133000000}


def test_no_clocks(tmp_path: Path) -> None:
    reader = ClockReader(BoardFiles(str(tmp_path)))
    assert reader.read() == {"gpu": None, "emc": None, "cpu": []}
    assert reader.gpu_hz() is None and reader.cpu_hz() is None and reader.pinned_gpu_hz() is None


def test_mode_without_nvpmodel(board: FakeBoard) -> None:
    (board.root / "usr/sbin/nvpmodel").unlink()
    assert current_mode(BoardFiles(str(board.root))) == (7, "MODE_15W_DESKTOP")
    (board.root / "var/lib/nvpmodel/status").unlink()
    assert current_mode(BoardFiles(str(board.root))) is None


def sample(time_s: float, gpu_hz: int | None = 100, **rails_mw: float) -> Sample:
    return Sample(time_s, gpu_hz, None, {}, rails_mw)


def test_sampler_keeps_its_pace(board: FakeBoard) -> None:
    now = [0.0]
    sampler = Sampler(BoardFiles(str(board.root)), clock=lambda: now[0])
    sampler.tick()
    assert sampler.samples == []
    sampler.start()
    for now[0] in (10.0, 10.5, 11.0, 11.5):
        sampler.tick()
    assert [each.time_s for each in sampler.samples] == [10.0, 11.0]
    sampler.start(dense=True)
    for now[0] in (11.6, 11.7, 11.85):
        sampler.tick()
    assert [each.time_s for each in sampler.samples[2:]] == [11.6, 11.85]
    sampler.stop()
    now[0] = 99.0
    sampler.tick()
    assert len(sampler.samples) == 4 and [each.time_s for each in sampler.between(11.0, 11.7)] == [11.0, 11.6]
    assert sampler.to_list()[1]["time_s"] == 1.0 and sampler.to_list()[1]["module_mw"] == pytest.approx(7604.728)


def test_a_clock_that_falls(board: FakeBoard) -> None:
    sampler = Sampler(BoardFiles(str(board.root)))
    sampler.samples = [sample(0, 1_000_000_000), sample(1, 995_000_000), sample(2, None), sample(3, 500_000_000)]
    assert sampler.throttled() is None
    sampler.pinned_gpu_hz = 1_000_000_000
    assert sampler.throttled() == "the GPU dropped to 500 of 1000 MHz in 33% of the samples"
    sampler.samples.pop()
    assert sampler.throttled() is None


def test_means_and_energy() -> None:
    loop = [sample(0, GPU=2000.0, CPU=1000.0), sample(1, GPU=4000.0, CPU=1000.0)]
    idle = [sample(0, GPU=500.0, CPU=500.0)]
    assert mean_rails(loop) == {"GPU": 3000.0, "CPU": 1000.0}
    assert mean_rails([*loop, sample(2, GPU=0.0)]) == {"GPU": 2000.0}
    found = energy(loop, idle, inferences=20, seconds=10.0)
    # 4 W for 10 s are 40 J, or 2 J for each of 20 inferences; 1 W is idle power.
    assert found["energy_mj_per_inference"] == 2000.0
    assert found["energy_above_idle_mj_per_inference"] == 1500.0
    assert found["samples"] == 2
    assert energy(loop, [], inferences=20, seconds=10.0)["energy_above_idle_mj_per_inference"] is None
    assert energy([], idle, inferences=20, seconds=10.0) == {} == energy(loop, idle, inferences=0, seconds=10.0)
