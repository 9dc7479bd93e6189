//! What a process holds, from /proc.

/// Descriptors, threads and memory.
#[derive(Clone, Copy, Debug)]
pub struct Holdings {
    pub descriptors: usize,
    pub threads: u64,
    pub resident_kib: u64,
    /// Of that, what is no file: heap and stacks.
    pub anonymous_kib: u64,
}

impl Holdings {
    /// Of `pid`, now.
    pub fn of(pid: u32) -> Holdings {
        Holdings {
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            threads: status_field(pid, "Threads:"),
            resident_kib: status_field(pid, "VmRSS:"),
            anonymous_kib: status_field(pid, "RssAnon:"),
        }
    }
}

/// A field of proc_pid_status(5); memory is in KiB.
pub fn status_field(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
