//! Which system calls are let through. Any other one fails with ENOSYS, as on a kernel that has none of
//! that name, and is told to the kernel's audit log.
//!
//! An error and no death: whoever made the process do it would make its successor do it as well, and
//! the guests would wait. ENOSYS and no EPERM: a library that tries a newer call first goes on with the
//! older one.

use std::collections::BTreeMap;
use std::io;

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition,
    SeccompFilter, SeccompRule, TargetArch,
};

use crate::sys;

/// Whatever their arguments, in the order of what they are for.
const CALLS: &[c_long] = &[
    // Memory, and threads.
    SYS_brk,
    SYS_madvise,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munmap,
    SYS_exit,
    SYS_exit_group,
    SYS_futex,
    SYS_gettid,
    SYS_membarrier,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_sched_getaffinity,
    SYS_sched_yield,
    SYS_set_robust_list,
    SYS_setpriority,
    // Signals to this process.
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    // Who and when.
    SYS_clock_getres,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getpid,
    SYS_getppid,
    SYS_getrandom,
    SYS_gettimeofday,
    SYS_getuid,
    SYS_nanosleep,
    SYS_sysinfo,
    SYS_uname,
    // Leaving the caller's terminal.
    SYS_chdir,
    SYS_setsid,
    // Descriptors.
    SYS_close,
    SYS_dup,
    SYS_dup3,
    SYS_fcntl,
    SYS_ppoll,
    SYS_pselect6,
    // Templates and views.
    SYS_copy_file_range,
    SYS_fadvise64,
    SYS_fallocate,
    SYS_fdatasync,
    SYS_flock,
    SYS_fsync,
    SYS_ftruncate,
    SYS_lseek,
    SYS_memfd_create,
    SYS_pread64,
    SYS_preadv,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_read,
    SYS_readv,
    SYS_sync_file_range,
    SYS_write,
    SYS_writev,
    // Names.
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fgetxattr,
    SYS_fstat,
    SYS_fstatfs,
    SYS_getcwd,
    SYS_getdents64,
    SYS_getxattr,
    SYS_mkdirat,
    SYS_newfstatat,
    SYS_openat,
    SYS_openat2,
    SYS_readlinkat,
    SYS_renameat2,
    SYS_statfs,
    SYS_statx,
    SYS_unlinkat,
    SYS_utimensat,
    // The holder, the broker, those who read the metrics, the name service.
    SYS_accept4,
    SYS_bind,
    SYS_connect,
    SYS_getpeername,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_sendmmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_setsockopt,
    SYS_shutdown,
];

/// Forms that not all architectures still have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    SYS_access,
    SYS_dup2,
    SYS_lstat,
    SYS_mkdir,
    SYS_open,
    SYS_poll,
    SYS_readlink,
    SYS_rename,
    SYS_renameat,
    SYS_rmdir,
    SYS_stat,
    SYS_time,
    SYS_unlink,
];
#[cfg(target_arch = "aarch64")]
const OLDER: &[c_long] = &[SYS_renameat];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OLDER: &[c_long] = &[];

/// Of the connection to the kernel, of a pagemap that the broker has opened, of any descriptor, and what a
/// terminal is recognised by.
const IOCTLS: [u64; 6] = [sys::BACKING_OPEN, sys::BACKING_CLOSE, sys::PAGEMAP_SCAN, FIONBIO, FIOCLEX, TCGETS];

/// A thread's name, and what the memory of an allocator is called.
const PR_SET_VMA: u64 = 0x5356_4d41;
const PRCTLS: [u64; 3] = [PR_SET_NAME as u64, PR_GET_NAME as u64, PR_SET_VMA];

/// Installs the filter, and returns how many calls it lets through; why not, where this kernel or
/// architecture has none.
pub fn filter() -> io::Result<Result<usize, String>> {
    let Ok(architecture) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(Err(format!("none for {}", std::env::consts::ARCH)));
    };
    let allowed = allowed();
    let calls = allowed.len();
    let absent = SeccompAction::Errno(ENOSYS as u32);
    // The flags of clone3 lie in memory, where no filter sees them; libraries fall back to clone,
    // at each start of a thread, which the audit log need not hear of.
    let unseen = BTreeMap::from([(SYS_clone3, Vec::new())]);
    let programs = [
        (compile(unseen, SeccompAction::Allow, absent.clone(), architecture)?, 0),
        (compile(allowed, absent, SeccompAction::Allow, architecture)?, SECCOMP_FILTER_FLAG_LOG),
    ];
    for (program, flags) in programs {
        match sys::filter_syscalls(&program, flags as u32) {
            Err(e) if matches!(e.raw_os_error(), Some(ENOSYS | EINVAL)) => return Ok(Err(e.to_string())),
            installed => installed?,
        }
    }
    Ok(Ok(calls))
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
    architecture: TargetArch,
) -> io::Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, otherwise, matching, architecture);
    filter.and_then(BpfProgram::try_from).map_err(io::Error::other)
}

fn allowed() -> BTreeMap<i64, Vec<SeccompRule>> {
    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> =
        CALLS.iter().chain(OLDER).map(|call| (*call, Vec::new())).collect();
    let own = u64::from(std::process::id());
    let any_of = |argument, values: &[u64]| {
        values.iter().map(|value| rule(argument, Op::Eq, *value)).collect::<Vec<_>>()
    };
    // A thread and no process: programs are started by the broker.
    let thread = CLONE_THREAD as u64;
    allowed.insert(SYS_clone, vec![rule(0, Op::MaskedEq(thread), thread)]);
    // The filter before this one answers it.
    allowed.insert(SYS_clone3, Vec::new());
    allowed.insert(SYS_ioctl, any_of(1, &IOCTLS));
    allowed.insert(SYS_prctl, any_of(0, &PRCTLS));
    // An abort, and nobody else's end.
    allowed.insert(SYS_kill, any_of(0, &[own]));
    allowed.insert(SYS_tgkill, any_of(0, &[own]));
    allowed.insert(SYS_prlimit64, any_of(0, &[0, own]));
    for call in [SYS_socket, SYS_socketpair] {
        allowed.insert(call, any_of(0, &[AF_UNIX as u64]));
    }
    allowed
}

fn rule(argument: u8, comparison: Op, value: u64) -> SeccompRule {
    let condition = Condition::new(argument, Len::Dword, comparison, value).expect("an argument's number");
    SeccompRule::new(vec![condition]).expect("a condition")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::os::unix::net::UnixStream;
    use std::process::Command;

    use rustix::fs::CWD;
    use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags, mount, open_tree, unmount};
    use rustix::process::{Signal, getppid, kill_process};

    use super::*;

    /// On a thread of its own, as it cannot be undone; it holds for the threads that this one starts too.
    #[test]
    fn no_program_is_started_nothing_mounted_and_nobody_else_signalled() {
        let confined = || {
            rustix::thread::set_no_new_privs(true).unwrap();
            assert!(filter().unwrap().is_ok(), "a kernel without filters");
            let started = std::thread::spawn(refused).join();
            File::open("/proc/self/status").unwrap();
            UnixStream::pair().unwrap();
            started.unwrap()
        };
        let refused = std::thread::spawn(confined).join().unwrap();
        for (what, error) in refused {
            assert_eq!(error.and_then(|error| error.raw_os_error()), Some(ENOSYS), "{what}");
        }
    }

    fn refused() -> Vec<(&'static str, Option<io::Error>)> {
        let parent = getppid().unwrap();
        let error = |result: rustix::io::Result<()>| result.err().map(io::Error::from);
        vec![
            ("a program", Command::new("true").spawn().err()),
            ("a TCP socket", TcpListener::bind("127.0.0.1:0").err()),
            ("mount", error(mount("none", "/nonexistent", "tmpfs", MountFlags::empty(), None))),
            ("umount", error(unmount("/nonexistent", UnmountFlags::empty()))),
            ("chroot", error(rustix::process::chroot("/"))),
            ("a signal", error(kill_process(parent, Signal::CONT))),
            ("a copy of a mount", error(open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE).map(drop))),
            ("a filter that is looser", filter_is_not_changed()),
        ]
    }

    fn filter_is_not_changed() -> Option<io::Error> {
        sys::filter_syscalls(&[], 0).err()
    }
}
