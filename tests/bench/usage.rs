//! What processes use, as the kernel counts it.

/// The kernel counts CPU time in these for whoever reads /proc.
const TICKS_PER_S: f64 = 100.0;

/// CPU time of processes and of the children that they have waited for, in seconds. One that has ended
/// counts as nothing.
pub fn cpu_s(pids: &[i32]) -> f64 {
    let stat = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    pids.iter().filter_map(stat).filter_map(|text| ticks(&text)).sum::<f64>() / TICKS_PER_S
}

/// utime, stime, cutime and cstime of proc(5). The name in parentheses may hold spaces.
fn ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let words = rest.split_whitespace().skip(11).take(4);
    words.map(|word| word.parse::<f64>().ok()).sum()
}

/// Resident memory in MiB.
pub fn rss_mib(pid: i32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok()
    });
    Ok(kib.unwrap_or(f64::NAN) / 1024.0)
}
