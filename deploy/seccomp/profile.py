# ruff: noqa: INP001 -- a script, in no package
"""Write cvmprobe.json, the seccomp profile of the agent: ``python deploy/seccomp/profile.py``.

It lists only what the agent, its engines and a shell beside it need (found with strace, and with a filter that kills),
and io_uring, which RuntimeDefault refuses. Nothing here opens a namespace, mounts, traces, or loads code into the
kernel. What is not listed answers ENOSYS, so that a C library takes its older way.
"""

import json
from pathlib import Path

ENOSYS = 38
NAMESPACES = 0x7E020000  # CLONE_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}

CALLS = {
    "io_uring": "io_uring_enter io_uring_register io_uring_setup",
    "libaio": "io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit",
    "files": """
        access chdir chmod close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
        fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flock
        fstat fstatfs fsync ftruncate getcwd getdents getdents64 inotify_add_watch inotify_init1
        inotify_rm_watch ioctl link linkat lseek lstat memfd_create mkdir mkdirat newfstatat open openat
        openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
        readlinkat readv rename renameat renameat2 rmdir sendfile splice stat statfs statx symlink symlinkat
        sync_file_range syncfs truncate umask unlink unlinkat utimensat write writev""",
    "memory": """
        brk madvise membarrier mincore mlock mlock2 mmap mprotect mremap msync munlock munmap pkey_alloc
        pkey_free pkey_mprotect""",
    "sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg
        sendmmsg sendmsg sendto setsockopt shutdown socketpair""",
    "waiting": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 poll ppoll
        pselect6 select signalfd4 timerfd_create timerfd_gettime timerfd_settime""",
    "time": """
        adjtimex clock_adjtime clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep
        setitimer time times timer_create timer_delete timer_getoverrun timer_gettime timer_settime""",
    "threads": """
        futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list getcpu gettid rseq
        sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
        sched_getscheduler sched_setaffinity sched_yield set_robust_list set_tid_address""",
    "processes": """
        arch_prctl execve execveat exit exit_group fork getegid geteuid getgid getgroups getpgid getpgrp
        getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid getuid kill
        pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall setpgid setrlimit setsid sysinfo tgkill
        tkill uname vfork wait4 waitid""",
    "signals": """
        pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
        rt_sigtimedwait rt_tgsigqueueinfo sigaltstack""",
    "the container runtime, between filter and program": """
        capget capset setfsgid setfsuid setgid setgroups setregid setresgid setresuid setreuid setuid""",
}


def profile() -> dict[str, object]:
    """Return the profile in the form of the OCI runtime specification, which containerd and CRI-O read."""
    allowed: list[dict[str, object]] = [
        {"names": sorted(calls.split()), "action": "SCMP_ACT_ALLOW", "comment": group} for group, calls in CALLS.items()
    ]
    allowed += [_socket(family, value) for family, value in FAMILIES.items()]
    without = {"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    allowed.append({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [without], "comment": "without namespaces"})
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": allowed,
    }


def _socket(family: str, value: int) -> dict[str, object]:
    argument = {"index": 0, "value": value, "op": "SCMP_CMP_EQ"}
    return {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [argument], "comment": family}


def text() -> str:
    """Return the profile as it lies in cvmprobe.json."""
    return json.dumps(profile(), indent=1) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("cvmprobe.json").write_text(text())
