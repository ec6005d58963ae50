"""The system calls that no training code needs: a seccomp filter for the sandbox."""

from __future__ import annotations

import errno
import mmap
import socket
from pathlib import Path

from services.trainer.sandbox.sandbox import NoSandbox

# Kernel doors that were the way out of other sandboxes, and those that see or change other processes and the machine.
REFUSED = """
acct add_key bpf chroot clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen
fspick init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
lookup_dcookie migrate_pages mount mount_setattr move_mount move_pages name_to_handle_at nfsservctl open_by_handle_at
open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise process_mrelease process_vm_readv
process_vm_writev ptrace quotactl quotactl_fd reboot request_key setdomainname sethostname setns settimeofday swapoff
swapon syslog umount umount2 unshare userfaultfd vhangup
""".split()  # noqa: SIM905 - fifty lines otherwise

# Memory that no process and no file system of the job shows, so that nobody outside could count it.
REFUSED += """
io_setup memfd_secret mq_open msgget semget shmat shmget vmsplice
""".split()  # noqa: SIM905
# The same, where no driver of a GPU needs it; where one may, it is counted as far as it shows.
NOT_WITHOUT_GPU = ("memfd_create",)

NAMESPACES = {
    "mount": 0x0002_0000,
    "cgroup": 0x0200_0000,
    "uts": 0x0400_0000,
    "ipc": 0x0800_0000,
    "user": 0x1000_0000,
    "pid": 0x2000_0000,
    "net": 0x4000_0000,
}
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
BUFFER_SIZES = (socket.SO_SNDBUF, socket.SO_RCVBUF, SO_SNDBUFFORCE, SO_RCVBUFFORCE)
# The kernel reads 32 bits of an int; a filter that compares 64 is passed by any rubbish in the upper half.
INT = 0xFFFF_FFFF


def write_filter(file: Path, *, gpu: bool = False) -> None:
    """Write the filter as the BPF program that bubblewrap takes. Raises NoSandbox where none can be made.

    gpu: whether for jobs with a GPU, which may share memory without a file.
    """
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise NoSandbox(f"pyseccomp or libseccomp is missing: {error}") from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)

    def int_is(argument: int, value: int) -> object:
        return pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, INT, value)

    for name in (*REFUSED, *(() if gpu else NOT_WITHOUT_GPU)):
        if pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) >= 0:
            rules.add_rule(refuse, name)
    for flag in NAMESPACES.values():
        rules.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    # clone3 keeps its flags in memory, where a filter cannot look; without it, libc falls back to clone.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    # Shared memory without a file is on no file system; multiprocessing and torch share through /dev/shm.
    shared = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    if not gpu:
        rules.add_rule(refuse, "mmap", pyseccomp.Arg(3, pyseccomp.MASKED_EQ, shared, shared))
    for call in ("socket", "socketpair"):
        rules.add_rule(refuse, call, pyseccomp.Arg(0, pyseccomp.NE, int(socket.AF_UNIX)))
    # What waits in a socket is the kernel's memory: with the sizes fixed, the sockets of a job can be counted for it.
    for option in BUFFER_SIZES:
        rules.add_rule(refuse, "setsockopt", int_is(1, socket.SOL_SOCKET), int_is(2, option))
    with file.open("wb") as stream:
        rules.export_bpf(stream)
