//! What does not fit into memory is refused before it is allocated: an allocation that fails ends the whole
//! process.

use std::sync::OnceLock;

use crate::{Error, Result};

/// Bytes that a process can address on 64-bit machines of today: what is larger fits no machine.
pub const ADDRESSABLE: u64 = 1 << 47;

/// Bytes of memory that this process may use: the machine's, swap included, or its control group's where that
/// is less. [`ADDRESSABLE`] where the system does not tell.
pub fn available() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let machine = of_machine(&read("/proc/meminfo")).unwrap_or(ADDRESSABLE);
        let group = of_group(&read("/proc/self/cgroup"), read);
        group.map_or(machine, |group| group.min(machine))
    })
}

/// `MemTotal` and `SwapTotal` of `/proc/meminfo`.
fn of_machine(text: &str) -> Option<u64> {
    let kilobytes = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some((kilobytes("MemTotal:")? + kilobytes("SwapTotal:").unwrap_or(0)) << 10)
}

/// The least limit of the control groups (version 2) that a process is in.
fn of_group(own: &str, read: impl Fn(&str) -> String) -> Option<u64> {
    let mut path = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_end_matches('/');
    let mut least = None;
    loop {
        let limit = read(&format!("/sys/fs/cgroup{path}/memory.max")).trim().parse::<u64>().ok();
        least = least.into_iter().chain(limit).min();
        match path.rsplit_once('/') {
            Some((above, _)) => path = above,
            None => return least,
        }
    }
}

/// Refuses what needs more bytes than this process may use.
///
/// # Errors
/// [`Error::Memory`].
pub fn require(what: impl Into<String>, needed: u128) -> Result<()> {
    let available = available();
    if needed > u128::from(available) {
        return Err(Error::Memory { what: what.into(), needed, available });
    }
    Ok(())
}

/// The product of sizes in bytes, however large.
pub fn product(sizes: &[usize]) -> u128 {
    sizes.iter().fold(1, |product: u128, &size| product.saturating_mul(size as u128))
}

/// `16.8 GB`: three digits, in powers of 1000.
pub fn readable(bytes: u128) -> String {
    const UNITS: [&str; 7] = ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_own_words_are_read() {
        let text = "MemTotal:       16000000 kB\nMemFree: 1 kB\nSwapTotal:   2000 kB\n";
        assert_eq!(of_machine(text), Some(16_002_000 << 10));
        assert_eq!(of_machine("nothing"), None);
        let read = |path: &str| match path {
            "/sys/fs/cgroup/job/step/memory.max" => "max\n".to_owned(),
            "/sys/fs/cgroup/job/memory.max" => "4096\n".to_owned(),
            _ => String::new(),
        };
        assert_eq!(of_group("0::/job/step\n", read), Some(4096));
        assert_eq!(of_group("0::/\n", read), None);
        assert_eq!(of_group("", read), None);
        assert!(available() > 1 << 20);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_figures() {
        require("x", 1).unwrap();
        let needed = product(&[usize::MAX, usize::MAX, 8]);
        let error = require("`x`", needed).unwrap_err().to_string();
        assert!(error.starts_with("`x` needs ") && error.contains("this machine has"), "{error}");
        assert_eq!(product(&[usize::MAX; 3]), u128::MAX);
        assert_eq!(readable(80_000_000_000_000_000), "80.0 PB");
        assert_eq!(readable(999), "999 bytes");
        assert_eq!(readable(999_999), "1.00 MB");
    }
}
