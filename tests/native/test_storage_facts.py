"""What lies below a volume, on machines made of files: NVMe, SCSI, RAID, multipath, btrfs, odd names."""

import os

import pytest

from cvmprobe.probes.environment import environment


class Machine:
    """A tree that stands for /sys and /proc; ``disk`` places a device where the kernel would."""

    def __init__(self, root):
        self.root = root
        self._mounts = []

    def write(self, path, text=""):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{text}\n")

    def link(self, path, target):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / target).mkdir(parents=True, exist_ok=True)
        (self.root / path).symlink_to(self.root / target)

    def disk(self, name, place, number, **files):
        folder = f"sys/devices/{place}/{name}"
        for path, text in {"queue/scheduler": "[none]", "queue/rotational": "0", **files}.items():
            self.write(f"{folder}/{path}", text)
        for link in (f"sys/block/{name}", f"sys/class/block/{name}", f"sys/dev/block/{number}"):
            self.link(link, folder)
        return folder

    def slave(self, folder, *names):
        for name in names:
            self.link(f"{folder}/slaves/{name}", f"sys/class/block/{name}")

    def mount(self, point, number, filesystem="ext4", source="/dev/x"):
        self._mounts.append(f"{len(self._mounts) + 20} 1 {number} / {point} rw - {filesystem} {source} rw")
        path = self.root / "proc/self/mountinfo"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode("\n".join(self._mounts) + "\n"))

    def stack(self, path):
        return environment(self.root, {"v": path}).value("volume_v_stack")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_an_nvme_disk_has_its_controllers_driver_and_no_path_of_its_is_a_disk(machine):
    controller = "sys/devices/pci0000:00/0000:00:04.0"
    folder = machine.disk("nvme0n1", "pci0000:00/0000:00:04.0/nvme/nvme0", "259:0")
    machine.link(f"{folder}/device", f"{controller}/nvme/nvme0")
    machine.link(f"{controller}/driver", "sys/bus/pci/drivers/nvme")
    machine.disk("nvme0c0n1", "pci0000:00/0000:00:04.0/nvme/nvme0", "259:1", hidden="1")
    machine.mount("/", "259:0")
    assert machine.stack("/") == "nvme0n1 disk(nvme, scheduler none, solid)"
    found = environment(machine.root)
    assert found.value("disks") == "1"
    assert not [fact for fact in found.facts if "nvme0c0n1" in fact.name]


def test_a_scsi_disk_has_the_driver_of_what_carries_it(machine):
    place = "vmbus/host0/target0:0:0/0:0:0:0"
    folder = machine.disk("sda", f"{place}/block", "8:0")
    machine.link(f"{folder}/device", f"sys/devices/{place}")
    machine.link(f"sys/devices/{place}/driver", "sys/bus/scsi/drivers/sd")
    machine.mount("/", "8:0")
    assert machine.stack("/") == "sda disk(sd, scheduler none, solid)"
    machine.link("sys/devices/vmbus/driver", "sys/bus/vmbus/drivers/hv_storvsc")
    assert machine.stack("/") == "sda disk(hv_storvsc, scheduler none, solid)"


def test_multipath_below_lvm_is_followed_and_each_disk_told_once(machine):
    for name, number in (("sda", "8:0"), ("sdb", "8:16")):
        machine.disk(name, f"pci0/{name}x/block", number)
    paths = {
        "dm-0": ("mpath-3600SECRET", "sda", "sdb"),
        "dm-1": ("LVM-SECRETa", "dm-0"),
        "dm-2": ("LVM-SECRETb", "dm-0"),
    }
    for i, (name, (uuid, *below)) in enumerate(paths.items()):
        machine.slave(machine.disk(name, "virtual/block", f"253:{i}", **{"dm/uuid": uuid, "dm/name": f"n{i}"}), *below)
    top = machine.disk("dm-3", "virtual/block", "253:3", **{"dm/uuid": "LVM-SECRETc", "dm/name": "vg-striped"})
    machine.slave(top, "dm-1", "dm-2")
    machine.mount("/data", "253:3")
    disk = "disk(no driver, scheduler none, solid)"
    assert machine.stack("/data") == (
        f"dm-3 dm:LVM > dm-1 dm:LVM > dm-2 dm:LVM > dm-0 dm:mpath > sda {disk} > sdb {disk}"
    )
    assert "SECRET" not in str(environment(machine.root, {"v": "/data"}))


def test_a_raid_and_a_loop_device_are_named_as_what_they_are(machine):
    machine.disk("sda", "pci0/block", "8:0")
    machine.slave(machine.disk("md0", "virtual/block", "9:0", **{"md/level": "raid1"}), "sda")
    machine.disk("loop0", "virtual/block", "7:0", **{"loop/backing_file": "/SECRET"})
    machine.mount("/raid", "9:0")
    machine.mount("/loop", "7:0")
    assert machine.stack("/raid") == "md0 md:raid1 > sda disk(no driver, scheduler none, solid)"
    assert machine.stack("/loop") == "loop0 loop"
    assert environment(machine.root).value("disk_md0_slaves") == "sda"


@pytest.mark.parametrize("source", ["/dev/vdb", "/dev/mapper/state"])
def test_btrfs_which_makes_up_its_device_number_is_found_by_the_device_it_names(machine, source):
    machine.disk("vdb", "pci0/block", "254:16")
    dm = machine.disk("dm-0", "virtual/block", "253:0", **{"dm/uuid": "CRYPT-LUKS2-SECRET-state", "dm/name": "state"})
    machine.slave(dm, "vdb")
    machine.mount("/", "0:41", "btrfs", source)
    crypt = "dm-0 dm:CRYPT-LUKS2 > " if "mapper" in source else ""
    assert machine.stack("/") == f"{crypt}vdb disk(no driver, scheduler none, solid)"


def test_what_names_no_device_here_has_no_stack(machine):
    for point, filesystem, source in (("/a", "btrfs", "/dev/gone"), ("/b", "nfs4", "server:/x"), ("/c", "tmpfs", "")):
        machine.mount(point, "0:50", filesystem, source)
        assert machine.stack(point) is None
        assert environment(machine.root, {"v": point}).value("volume_v_filesystem") == filesystem


@pytest.mark.parametrize("name", ["für", "a b", "back\\slash", "line\u2028break", os.fsdecode(b"no\xffutf8")])
def test_a_mount_point_of_any_name_is_found(machine, name):
    machine.disk("sda", "pci0/block", "8:0")
    machine.disk("sdb", "pci0/block", "8:16")
    machine.mount("/", "8:0")
    machine.mount("/" + name.replace("\\", "\\134").replace(" ", "\\040"), "8:16")
    assert machine.stack(f"/{name}/below").startswith("sdb ")


def test_a_mapping_without_a_uuid_has_an_unknown_type(machine):
    machine.disk("dm-0", "virtual/block", "253:0", **{"dm/uuid": "", "dm/name": "plain"})
    assert environment(machine.root).value("disk_dm-0_dm_type") is None
    assert environment(machine.root).value("disk_dm-0_dm_name") == "plain"


def test_a_line_that_is_no_mount_and_a_number_that_is_none_stop_nothing(machine):
    machine.mount("/", "8:0")
    (machine.root / "proc/self/mountinfo").write_text("nonsense\n1 2 - x\n")
    machine.write("sys/kernel/debug/swiotlb/io_tlb_nslabs", "many")
    found = environment(machine.root, {"v": "/"})
    assert found.value("volume_v_stack") is None
    (told,) = [fact for fact in found.facts if fact.name == "swiotlb_bytes"]
    assert told.value is None
    assert "invalid literal" in told.source


def test_disks_that_cannot_be_seen_are_unknown_not_0(machine):
    assert environment(machine.root).value("disks") is None
