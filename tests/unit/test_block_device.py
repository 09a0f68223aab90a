"""Which device is under a file, and what it and those it is made of count, from files as the kernel writes them."""

import os

import pytest

from cvmprobe.probes.block_device import BlockDevice

ROW = "{number} {name} {reads} 0 {read} 0 {writes} 0 {written} 0 0 {busy} 0"


@pytest.fixture
def machine(tmp_path):
    """A root with a LUKS device on a logical volume on two disks; the test's own files are on the LUKS device."""
    numbers = {"dm-1": device_number(tmp_path), "dm-0": "253:0", "sda": "8:0", "sdb": "8:16"}
    devices, by_number = tmp_path / "sys/devices", tmp_path / "sys/dev/block"
    by_number.mkdir(parents=True)
    for name, number in numbers.items():
        (devices / name / "slaves").mkdir(parents=True)
        (devices / name / "dev").write_text(number + "\n")
        (by_number / number).symlink_to(devices / name)
    for above, below in (("dm-1", "dm-0"), ("dm-0", "sda"), ("dm-0", "sdb")):
        (devices / above / "slaves" / below).symlink_to(devices / below)
    (devices / "dm-1/dm").mkdir()
    (devices / "dm-1/dm/name").write_text("state_disk\n")
    (tmp_path / "proc").mkdir()
    return tmp_path, numbers


def device_number(path):
    number = path.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def write_stats(machine, counts, tail=""):
    root, numbers = machine
    names = ("reads", "read", "writes", "written", "busy")
    rows = [
        ROW.format(number=numbers[name].replace(":", " "), name=name, **dict(zip(names, row, strict=True))) + tail
        for name, row in counts.items()
    ]
    (root / "proc/diskstats").write_text("\n".join(rows) + "\n")


def device_of(root):
    fd = os.open(root, os.O_RDONLY)
    try:
        return BlockDevice(fd, root)
    finally:
        os.close(fd)


def test_the_device_and_the_bottom_of_its_stack_are_counted(machine):
    write_stats(machine, {"dm-1": [1, 8, 2, 16, 5], "sda": [0] * 5, "sdb": [10, 10, 10, 10, 10], "dm-0": [9] * 5})
    device = device_of(machine[0])
    assert device.facts == {"block_device": "dm-1 (state_disk) on sda, sdb"}
    write_stats(
        machine, {"dm-1": [4, 32, 7, 56, 25], "sda": [1, 24, 8, 70, 1], "sdb": [10, 10, 11, 20, 10], "dm-0": [9] * 5}
    )
    assert device.counters() == {
        "block_reads": 3,
        "block_read_bytes": 24 * 512,
        "block_writes": 5,
        "block_write_bytes": 40 * 512,
        "block_busy_ns": 20_000_000,
        "backing_read_bytes": 24 * 512,
        "backing_write_bytes": 80 * 512,
    }
    assert set(device.counters().values()) == {0}


def test_newer_kernels_tell_flushes_too(machine):
    counts = {name: [0] * 5 for name in machine[1]}
    write_stats(machine, counts, tail=" 0 0 0 0 3 0")
    device = device_of(machine[0])
    write_stats(machine, counts, tail=" 0 0 0 0 7 0")
    assert device.counters()["block_flushes"] == 4


def test_what_is_not_told_is_absent(machine, tmp_path):
    write_stats(machine, {"dm-1": [0] * 5, "sda": [0] * 5})  # nothing of sdb
    assert "backing_write_bytes" not in device_of(machine[0]).counters()
    (machine[0] / "proc/diskstats").unlink()
    assert device_of(machine[0]).counters() == {}
    nowhere = device_of(tmp_path / "proc")
    assert (nowhere.facts, nowhere.counters()) == ({}, {})


def test_a_plain_disk_has_nothing_below(machine):
    root, _ = machine
    (root / "sys/devices/dm-1/slaves/dm-0").unlink()
    (root / "sys/devices/dm-1/dm/name").unlink()
    write_stats(machine, {"dm-1": [0] * 5})
    device = device_of(root)
    assert device.facts == {"block_device": "dm-1"}
    assert "backing_read_bytes" not in device.counters()
