//! Memory that this process may still take: what the machine has left, what its own limits leave (`ulimit -v`, `ulimit
//! -d`), and what the limits of its container leave (control groups, both versions). The least of them counts. Sources:
//! Linux `proc_meminfo(5)`, `getrlimit(2)`, `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.

use mantissa_core::backend::DeviceMemory;
use std::fmt;
use std::path::{Path, PathBuf};

/// Above this a limit of a control group stands for none: version 1 writes the largest whole number of pages.
const UNLIMITED: u64 = 1 << 62;
/// What a process takes beside what a run plans: stacks of threads, batches.
const BESIDE: u64 = 64 << 20;
/// The part of a limit that is left for what grows with a run and stands in no plan: samples, tensors on their way to a
/// checkpoint.
const SPARED_PART: u64 = 5;

/// Bytes that may be taken, and by what they are limited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Available {
    /// Bytes.
    pub bytes: u64,
    /// What leaves no more.
    pub by: Bound,
}

/// What bounds the memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// What the machine has.
    Machine,
    /// What its container or control group may have.
    Group,
    /// `ulimit -v`.
    AddressSpace,
    /// `ulimit -d`.
    Data,
    /// What the device has.
    Device,
}

impl Bound {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Bound::Machine => "of the machine",
            Bound::Group => "by the limit of the container or control group",
            Bound::AddressSpace => "by ulimit -v",
            Bound::Data => "by ulimit -d",
            Bound::Device => "of the device",
        }
    }
}

/// A run that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Bytes that the run needs.
    pub needed: u64,
    /// Bytes that it may have.
    pub available: Available,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| match bytes >> 30 {
            0 => format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64),
            _ => format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
        };
        let Shortage { needed, available: Available { bytes, by } } = self;
        write!(
            f,
            "memory: expected a run of at most {}, which is available ({}), got one of {} planned; try a smaller --batch-size or --seq-len",
            size(*bytes),
            by.name(),
            size(*needed)
        )
    }
}

impl std::error::Error for Shortage {}

/// What a run may take on a device with this memory, where that is known: a GPU that does not report it may have any
/// amount.
pub(super) fn available_on(memory: DeviceMemory) -> Option<Available> {
    match memory {
        DeviceMemory::Host => available(),
        DeviceMemory::Own(bytes) => bytes.map(|bytes| Available { bytes, by: Bound::Device }),
    }
}

/// What may still be taken of the host, where the system says so.
pub(super) fn available() -> Option<Available> {
    from(Path::new("/"), limits::of_process())
}

/// As [`available`], from the files below `root` and the limits of the process.
fn from(root: &Path, limits: Limits) -> Option<Available> {
    let host = field(&read(root, "proc/meminfo"), "MemAvailable:").map(|bytes| Available { bytes, by: Bound::Machine });
    let status = read(root, "proc/self/status");
    let left = |limit: Option<u64>, used: &str, by| {
        let used = field(&status, used).unwrap_or(0);
        limit.map(|limit| Available { bytes: for_plan(limit.saturating_sub(used)), by })
    };
    let own = [left(limits.address_space, "VmSize:", Bound::AddressSpace), left(limits.data, "VmData:", Bound::Data)];
    let groups = groups(root).into_iter().filter_map(|group| group.left());
    let group = groups.min().map(|bytes| Available { bytes: for_plan(bytes), by: Bound::Group });
    own.into_iter().chain([host, group]).flatten().min_by_key(|a| a.bytes)
}

/// What a plan may take where `left` bytes are left below a limit that nothing can stretch.
fn for_plan(left: u64) -> u64 {
    let left = left.saturating_sub(BESIDE);
    left - left / SPARED_PART
}

/// Limits of a process, bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Limits {
    address_space: Option<u64>,
    data: Option<u64>,
}

#[cfg(unix)]
mod limits {
    use super::Limits;
    use rustix::process::{Resource, getrlimit};

    pub(super) fn of_process() -> Limits {
        Limits { address_space: getrlimit(Resource::As).current, data: getrlimit(Resource::Data).current }
    }
}

#[cfg(not(unix))]
mod limits {
    use super::Limits;

    pub(super) fn of_process() -> Limits {
        Limits::default()
    }
}

/// The folder of a control group, and the names of its files.
struct Group {
    dir: PathBuf,
    limit: &'static str,
    used: &'static str,
    /// Entries of `memory.stat` with pages of files, which the kernel gives up when memory is short.
    reclaimable: [&'static str; 2],
}

impl Group {
    fn left(&self) -> Option<u64> {
        let number = |name: &str| read(&self.dir, name).trim().parse::<u64>().ok();
        let limit = number(self.limit).filter(|limit| *limit < UNLIMITED)?;
        let stat = read(&self.dir, "memory.stat");
        let entry = |name: &str| -> u64 {
            let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
        };
        let files: u64 = self.reclaimable.iter().map(|name| entry(name)).sum();
        Some(limit.saturating_sub(number(self.used).unwrap_or(0).saturating_sub(files)))
    }
}

/// The control groups that the process lies in, up to the root. In a container the path that the process sees may be
/// that of the machine: then the folder at the root of the mount is its own.
fn groups(root: &Path) -> Vec<Group> {
    let mut groups = Vec::new();
    for line in read(root, "proc/self/cgroup").lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let first = controllers.split(',').any(|c| c == "memory");
        if !first && !controllers.is_empty() {
            continue;
        }
        let mount = root.join(if first { "sys/fs/cgroup/memory" } else { "sys/fs/cgroup" });
        let own = mount.join(path.trim_start_matches('/'));
        for dir in own.ancestors().take_while(|dir| dir.starts_with(&mount)) {
            let dir = dir.to_path_buf();
            groups.push(match first {
                true => Group {
                    dir,
                    limit: "memory.limit_in_bytes",
                    used: "memory.usage_in_bytes",
                    reclaimable: ["total_inactive_file", "total_active_file"],
                },
                false => {
                    Group { dir, limit: "memory.max", used: "memory.current", reclaimable: ["inactive_file", "active_file"] }
                }
            });
        }
    }
    groups
}

/// The text of a file; empty if it cannot be read, as where the system has none.
fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_default()
}

/// The bytes of a line such as `VmSize:     1024 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_gpu_has_memory_of_its_own() {
        assert_eq!(available_on(DeviceMemory::Own(None)), None);
        assert_eq!(available_on(DeviceMemory::Own(Some(MIB))), Some(Available { bytes: MIB, by: Bound::Device }));
        let kinds = |available: Option<Available>| available.map(|a| a.by);
        assert_eq!(kinds(available_on(DeviceMemory::Host)), kinds(available()));
    }

    /// A machine with 1000 MiB left, and a process that takes 100 MiB, half of it data.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let usual = [
            ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   1024000 kB\n"),
            ("proc/self/status", "VmSize:  102400 kB\nVmData:\t 51200 kB\n"),
        ];
        for (path, text) in usual.iter().chain(files) {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn left(files: &[(&str, &str)], limits: Limits) -> (u64, Bound) {
        let dir = machine(files);
        let available = from(dir.path(), limits).unwrap();
        (available.bytes / MIB, available.by)
    }

    #[test]
    fn the_least_of_all_limits_counts() {
        assert_eq!(left(&[], Limits::default()), (1000, Bound::Machine));
        let v = Limits { address_space: Some(364 * MIB), data: None };
        assert_eq!(left(&[], v), (160, Bound::AddressSpace), "of 364, less 100 taken, 64 beside, and a fifth");
        assert_eq!(left(&[], Limits { data: Some(124 * MIB), ..v }), (8, Bound::Data));
        assert_eq!(left(&[], Limits { address_space: Some(50 * MIB), data: None }), (0, Bound::AddressSpace));
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(from(empty.path(), Limits::default()), None, "a system that says nothing");
    }

    #[test]
    fn control_groups_of_both_versions_count_up_to_the_root() {
        let by = Bound::Group;
        // Version 2: the group itself has no limit, the one around it has.
        let second = [
            ("proc/self/cgroup", "0::/batch/job\n"),
            ("sys/fs/cgroup/batch/job/memory.max", "max\n"),
            ("sys/fs/cgroup/batch/memory.max", "629145600\n"),
            ("sys/fs/cgroup/batch/memory.current", "419430400\n"),
            ("sys/fs/cgroup/batch/memory.stat", "anon 1\ninactive_file 104857600\nactive_file 52428800\n"),
        ];
        assert_eq!(left(&second, Limits::default()), ((600 - 400 + 150 - 64) * 4 / 5, by));
        // Version 1 in a container: the path is that of the machine and not there, the mount is the container's own.
        let first = [
            ("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/docker/abc\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "314572800\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n"),
            ("sys/fs/cgroup/memory/memory.stat", "inactive_file 7\ntotal_inactive_file 10485760\ntotal_active_file 0\n"),
        ];
        assert_eq!(left(&first, Limits::default()), ((300 - 100 + 10 - 64) * 4 / 5, by));
        let unlimited =
            [("proc/self/cgroup", "4:memory:/\n"), ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(left(&unlimited, Limits::default()), (1000, Bound::Machine));
    }

    #[test]
    fn a_shortage_names_both_sizes() {
        let available = Available { bytes: 200 * MIB, by: Bound::AddressSpace };
        let text = Shortage { needed: 3 << 30, available }.to_string();
        assert!(text.contains("at most 200.0 MiB, which is available (by ulimit -v), got one of 3.0 GiB planned"), "{text}");
    }
}
