"""A folder with the files and programs of a Jetson AGX Xavier, for ``--sysroot``.

The programs are shell scripts that keep their state in files of the folder and log every call. Nothing was copied from
a real board; formats follow the public sources named next to each.
"""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["FakeBoard"]

# Mode: name, highest clock of GPU in Hz and CPU in kHz, mask of gated units (Jetson Linux Developer Guide, AGX Xavier).
_MODES = {
    0: ("MAXN", 1377000000, 2265600, 0),
    1: ("MODE_10W", 520000000, 1200000, 2),
    2: ("MODE_15W", 670000000, 1200000, 0),
    3: ("MODE_30W_ALL", 900000000, 1200000, 0),
    7: ("MODE_15W_DESKTOP", 675750000, 2188000, 0),
}
_MODE = 7
# Monitors at 0x40 and 0x41 of an AGX Xavier (kernel: tegra194-p2888.dtsi); volts in mV, amperes in mA.
_RAILS = {"0040": {"GPU": (19088, 24), "CPU": (19080, 32), "SOC": (19064, 154)},
          "0041": {"CV": (19080, 0), "VDDRQ": (19056, 16), "SYS5V": (19048, 173)}}  # fmt: skip
_ZONES = {"CPU-therm": 31500, "GPU-therm": 30500, "AUX-therm": 30500, "AO-therm": 30000, "PMIC-Die": 100000,
          "Tdiode_tegra": 32000, "CV-therm": -127000}  # fmt: skip
_RELEASE = "# {}, BOARD: t186ref, EABI: aarch64, DATE: {}"
_RELEASES = {
    4: _RELEASE.format("R32 (release), REVISION: 7.1, GCID: 29689809", "Wed Feb  2 21:33:23 UTC 2022"),
    5: _RELEASE.format("R35 (release), REVISION: 4.1, GCID: 33958178", "Tue Aug  1 19:57:35 UTC 2023"),
}
_GPU = "sys/class/devfreq/17000000.gv11b"
_CPU = "sys/devices/system/cpu"

_HEAD = '#!/bin/sh\nroot=\'{root}\'\necho "{name} $*" >> "$root/calls"\n'
# Output on declining a reboot: "nvpmodel -m 1, declined" on a real device (github.com/viamrobotics/agent, jetson test).
_NVPMODEL = r"""
mode=$(sed -n 's/^pmode:0*\([0-9]\)/\1/p' "$root/var/lib/nvpmodel/status")
entry() { sed -n "s/^$1 //p" "$root/modes"; }
case $1 in
-q)
    set -- $(entry "$mode"); echo "NV Power Mode: $1"; echo "$mode" ;;
-m)
    now=$(entry "$mode") new=$(entry "$2") id=$2
    [ -n "$new" ] || { echo "NVPM ERROR: Power mode not supported: $2"; exit 1; }
    if [ "${now##* }" != "${new##* }" ]; then
        echo "NVPM WARN: Reboot required for changing to this power mode: $2"
        echo "NVPM WARN: DO YOU WANT TO REBOOT NOW? enter YES/yes to confirm:"
        read answer
        case $answer in YES | yes) touch "$root/rebooted"; exit 0 ;; esac
        echo "NVPM ERROR: optMask is 1, no request for power mode"; exit 255
    fi
    set -- $new
    echo "$2" > "$root/{gpu}/max_freq"
    for core in "$root"/{cpu}/cpu[0-9]*; do echo "$3" > "$core/cpufreq/scaling_max_freq"; done
    printf 'pmode:%04d\n' "$id" > "$root/var/lib/nvpmodel/status" ;;
esac
"""
# Like NVIDIA's script, this asks before it overwrites a file, and exits with 0 after errors.
_JETSON_CLOCKS = r"""
keep() { echo "$1:$(cat "$1")" >> "$file"; }
file=$2
case $1 in
--show)
    echo "SOC family:tegra194  Machine:Jetson-AGX"
    echo "EMC MinFreq=204000000 MaxFreq=2133000000 CurrentFreq=2133000000 FreqOverride=0" ;;
--store)
    if [ -e "$file" ]; then
        echo "File $file already exists. Can I overwrite it? Y/N:"
        read answer
        [ "$answer" = y ] || { echo "Error: file $file already exists!"; exit 1; }
    fi
    keep "$root/{gpu}/min_freq"
    for core in "$root"/{cpu}/cpu[0-9]*; do keep "$core/cpufreq/scaling_min_freq"; done ;;
--restore)
    [ -e "$file" ] || { echo "Error: $file file not found !"; exit 1; }
    while IFS=: read -r path value; do echo "$value" > "$path"; done < "$file" ;;
"")
    cat "$root/{gpu}/max_freq" > "$root/{gpu}/min_freq"
    cat "$root/{gpu}/max_freq" > "$root/{gpu}/cur_freq"
    for core in "$root"/{cpu}/cpu[0-9]*; do
        cat "$core/cpufreq/scaling_max_freq" > "$core/cpufreq/scaling_min_freq"
    done ;;
esac
exit 0
"""
_TRTEXEC = r"""
for word in "$@"; do case $word in
    --exportTimes=*) times=${word#*=} ;;
    --loadEngine=*) [ -s "${word#*=}" ] || { echo "[E] no engine"; exit 1; } ;;
esac; done
query='{"startEnqMs":1,"endEnqMs":1.25,"startH2dMs":0,"endH2dMs":0,"startComputeMs":1,"endComputeMs":3,"startD2hMs":0'
query="$query"',"endD2hMs":0,"h2dMs":0,"computeMs":2,"d2hMs":0,"latencyMs":2}'
echo "[$query, $query, $query]" > "$times"
"""


class FakeBoard:
    """A board made of files.

    Args:
        root: Folder of the board, created if needed.
        jetpack: 4 or 5, for the form of the power monitors and of the release file.
    """

    def __init__(self, root: Path, *, jetpack: int = 5) -> None:
        self.root = root
        self._jetpack = jetpack
        self._system()
        self._clocks()
        self._monitors()
        self._zones()
        for name in ("15880000.nvdla0", "158c0000.nvdla1"):
            (root / "sys/devices/platform/13e10000.host1x" / name).mkdir(parents=True)
        self.program("usr/sbin/nvpmodel", _NVPMODEL)
        self.program("usr/bin/jetson_clocks", _JETSON_CLOCKS)

    def state(self) -> dict[str, str]:
        """Return the settings that a run must restore: the power mode and the limits of all clocks."""
        names = ("min_freq", "max_freq", "scaling_min_freq", "scaling_max_freq", "status")
        paths = sorted(path for path in self.root.rglob("*") if path.name in names)
        return {str(path.relative_to(self.root)): path.read_text() for path in paths}

    def calls(self, name: str = "") -> list[str]:
        """Return the calls of programs that change something, or only those of one program."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(name) and not line.endswith(("-q", "--show"))]

    def write(self, name: str, content: object) -> None:
        """Write a file."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")

    def program(self, name: str, script: str) -> None:
        """Write a program: the script, preceded by lines that set ``root`` and log the call."""
        self.write(name, _HEAD.replace("{root}", str(self.root)).replace("{name}", Path(name).name) + script)
        path = self.root / name
        path.write_text(path.read_text().replace("{gpu}", _GPU).replace("{cpu}", _CPU))
        path.chmod(0o755)

    def add_tensorrt(self) -> Path:
        """Add a fake TensorRT 8.5.2 with two DLA cores, a fake GPU and trtexec; return the folder for PYTHONPATH."""
        self.program("usr/src/tensorrt/bin/trtexec", _TRTEXEC)
        folder = self.root / "python"
        folder.mkdir()
        testing = Path(__file__).parent
        for name in ("fake_tensorrt", "fake_cudart"):
            shutil.copy(testing / f"{name}.py", folder / f"{name}.py")
        (folder / "tensorrt.py").write_text(
            "from fake_tensorrt import FakeTensorrt\n"
            "fake = FakeTensorrt('8.5.2.2', dla_cores=2)\n"
            "globals().update({key: value for key, value in vars(fake).items() if key != '__file__'})\n"
        )
        # JetPack does not include it.
        (folder / "onnxruntime.py").write_text("raise ImportError\n")
        (folder / "sitecustomize.py").write_text(
            "import ctypes\n"
            "real = ctypes.CDLL\n"
            "def CDLL(name, *rest, **more):\n"
            "    if 'cudart' not in str(name):\n"
            "        return real(name, *rest, **more)\n"
            "    from fake_cudart import FakeCudart\n"
            "    return FakeCudart(compute_capability=(7, 2))\n"
            "ctypes.CDLL = CDLL\n"
        )
        return folder

    def _system(self) -> None:
        self.write("etc/nv_tegra_release", _RELEASES[self._jetpack])
        self.write("etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 20.04.6 LTS"')
        self.write("proc/device-tree/model", "Jetson-AGX\0")
        self.write("proc/meminfo", "MemTotal:       32692892 kB")
        self.write("proc/sys/kernel/random/boot_id", "0f3a")
        self.write("var/lib/nvpmodel/status", f"pmode:{_MODE:04d}")
        self.write("modes", "\n".join(f"{number} {' '.join(map(str, entry))}" for number, entry in _MODES.items()))
        # The form of /etc/nvpmodel.conf: github.com/mlcommons/inference_results_v3.0, nvpmodel templates of the Xavier.
        lines = ["< PARAM TYPE=FILE NAME=TPC_POWER_GATING >", "TPC_PG_MASK /sys/devices/gpu.0/tpc_pg_mask", ""]
        for number, (name, gpu, cpu, mask) in _MODES.items():
            lines += [f"< POWER_MODEL ID={number} NAME={name} >", f"TPC_POWER_GATING TPC_PG_MASK {mask}"]
            lines += [f"GPU MAX_FREQ {gpu}", f"CPU_DENVER_0 MAX_FREQ {cpu}", ""]
        self.write("etc/nvpmodel.conf", "\n".join([*lines, "< PM_CONFIG DEFAULT=7 >"]))

    def _clocks(self) -> None:
        _, gpu, cpu, _ = _MODES[_MODE]
        for name, value in (("cur", 318750000), ("min", 318750000), ("max", gpu)):
            self.write(f"{_GPU}/{name}_freq", value)
        for core in range(8):
            self.write(f"{_CPU}/cpu{core}/online", int(core < 4))
            self.write(f"{_CPU}/cpu{core}/cpufreq/scaling_governor", "schedutil")
            for name, value in (("cur", 1190400), ("min", 1190400), ("max", cpu)):
                self.write(f"{_CPU}/cpu{core}/cpufreq/scaling_{name}_freq", value)

    def _monitors(self) -> None:
        for index, (address, rails) in enumerate(_RAILS.items()):
            folder = f"sys/bus/i2c/devices/1-{address}"
            self.write(f"{folder}/name", "ina3221x" if self._jetpack == 4 else "ina3221")
            if self._jetpack > 4:
                device = f"{folder}/hwmon/hwmon{index + 3}"
                self.write(f"{device}/in7_label", "sum of shunt voltages")
                self.write(f"{device}/in7_input", 99)
            for channel, (name, (voltage, current)) in enumerate(rails.items()):
                if self._jetpack == 4:
                    self.write(f"{folder}/iio:device{index}/rail_name_{channel}", name)
                    self.write(f"{folder}/iio:device{index}/in_power{channel}_input", voltage * current // 1000)
                    continue
                self.write(f"{device}/in{channel + 1}_label", name)
                self.write(f"{device}/in{channel + 1}_input", voltage)
                self.write(f"{device}/curr{channel + 1}_input", current)

    def _zones(self) -> None:
        for index, (name, millidegrees) in enumerate(_ZONES.items()):
            self.write(f"sys/class/thermal/thermal_zone{index}/type", name)
            self.write(f"sys/class/thermal/thermal_zone{index}/temp", millidegrees)
