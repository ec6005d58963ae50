"""The system calls that no training code needs: a seccomp filter for the sandbox."""

from __future__ import annotations

import errno
from pathlib import Path

from services.trainer.sandbox.sandbox import NoSandbox

# Kernel doors that were the way out of other sandboxes, and those that see or change other processes and the machine.
REFUSED = """
acct add_key bpf chroot clock_adjtime clock_settime delete_module finit_module fsconfig fsmount fsopen fspick
init_module io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
lookup_dcookie mount mount_setattr move_mount name_to_handle_at open_by_handle_at open_tree perf_event_open
pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev ptrace quotactl reboot request_key
setdomainname sethostname setns settimeofday swapoff swapon syslog umount umount2 unshare userfaultfd vhangup
""".split()  # noqa: SIM905 - fifty lines otherwise

CLONE_NEWUSER = 0x1000_0000
AF_NETLINK = 16
AF_VSOCK = 40


def write_filter(file: Path) -> None:
    """Write the filter as the BPF program that bubblewrap takes. Raises NoSandbox where none can be made."""
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise NoSandbox(f"pyseccomp or libseccomp is missing: {error}") from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in REFUSED:
        if pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) >= 0:
            rules.add_rule(refuse, name)
    rules.add_rule(refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER))
    # clone3 keeps its flags in memory, where a filter cannot look; without it, libc falls back to clone.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for family in (AF_NETLINK, AF_VSOCK):
        rules.add_rule(refuse, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    with file.open("wb") as stream:
        rules.export_bpf(stream)
