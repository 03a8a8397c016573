//! Repeated timing of one piece of work.

use std::time::{Duration, Instant};

use candle_core::Device;

use crate::statistics::{quantile, sorted};
use crate::{Result, Stop};

/// How long to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimingOptions {
    /// Seconds to run before measuring: caches, clock frequency and allocators settle.
    pub warm_up_seconds: f64,
    /// Shortest time to measure for, seconds; set-up between iterations is not counted.
    pub min_seconds: f64,
    /// Fewest iterations; at least one is always timed.
    pub min_iterations: usize,
}

impl Default for TimingOptions {
    fn default() -> Self {
        Self { warm_up_seconds: 0.2, min_seconds: 0.5, min_iterations: 5 }
    }
}

/// Times of one iteration, seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timed {
    /// Median.
    pub median_s: f64,
    /// Fastest.
    pub min_s: f64,
    /// 10 % and 90 % quantiles.
    pub quantiles_s: [f64; 2],
    /// Iterations timed.
    pub iterations: usize,
    /// Largest memory in use during an iteration, above what was in use before it, bytes; `None` when it
    /// was not measured.
    pub peak_bytes: Option<u64>,
}

/// Memory in use, counted by the program that measures: by its allocator on the CPU, by the driver on
/// a GPU.
pub trait MemoryGauge {
    /// Begins anew: what is in use now counts as nothing.
    fn reset(&self);

    /// Largest use since [`reset`](Self::reset), above what was in use then, bytes; `None` where nothing
    /// counts.
    fn peak(&self) -> Option<u64>;
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGauge;

impl MemoryGauge for NoGauge {
    fn reset(&self) {}

    fn peak(&self) -> Option<u64> {
        None
    }
}

/// Times `work`, which gets what the untimed `prepare` gives, until both minima are reached. The
/// device is idle when the clock starts and when it stops, and what `work` returns is dropped after
/// that.
///
/// # Errors
/// The first error of `prepare` or `work`; [`Interrupted`](crate::Error::Interrupted) when `stop` says so
/// between two iterations.
pub fn time<P, W>(
    options: &TimingOptions,
    device: &Device,
    gauge: &dyn MemoryGauge,
    stop: Stop<'_>,
    mut prepare: impl FnMut() -> Result<P>,
    mut work: impl FnMut(&P) -> Result<W>,
) -> Result<Timed> {
    let mut once = || -> Result<(Duration, Option<u64>)> {
        stop.check()?;
        let prepared = prepare()?;
        device.synchronize()?;
        gauge.reset();
        let start = Instant::now();
        let output = work(&prepared)?;
        device.synchronize()?;
        let elapsed = start.elapsed();
        let peak = gauge.peak();
        drop(output);
        Ok((elapsed, peak))
    };
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < options.warm_up_seconds {
        once()?;
    }
    let mut seconds = Vec::new();
    let (mut total, mut peak_bytes) = (0.0, None);
    while total < options.min_seconds || seconds.len() < options.min_iterations.max(1) {
        let (elapsed, peak) = once()?;
        seconds.push(elapsed.as_secs_f64());
        total += elapsed.as_secs_f64();
        peak_bytes = peak_bytes.max(peak);
    }
    let seconds = sorted(&seconds);
    Ok(Timed {
        median_s: quantile(&seconds, 0.5),
        min_s: quantile(&seconds, 0.0),
        quantiles_s: [0.1, 0.9].map(|q| quantile(&seconds, q)),
        iterations: seconds.len(),
        peak_bytes,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    struct Steps(Cell<u64>);

    impl MemoryGauge for Steps {
        fn reset(&self) {
            self.0.set(0);
        }

        fn peak(&self) -> Option<u64> {
            Some(self.0.get())
        }
    }

    #[test]
    fn set_up_is_neither_timed_nor_gauged() {
        let options = TimingOptions { warm_up_seconds: 0.0, min_seconds: 0.0, min_iterations: 3 };
        let gauge = Steps(Cell::new(0));
        let prepared = Cell::new(0u64);
        let timed = time(
            &options,
            &Device::Cpu,
            &gauge,
            Stop::NEVER,
            || {
                prepared.set(prepared.get() + 1);
                gauge.0.set(1000);
                std::thread::sleep(Duration::from_millis(20));
                Ok(prepared.get())
            },
            |count| {
                gauge.0.set(gauge.0.get() + count);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!((timed.iterations, timed.peak_bytes), (3, Some(3)));
        assert!(timed.median_s < 0.01 && timed.min_s <= timed.median_s);
    }

    #[test]
    fn both_minima_are_reached() {
        let sleep = || {
            std::thread::sleep(Duration::from_millis(2));
            Ok(())
        };
        let options = TimingOptions { warm_up_seconds: 0.01, min_seconds: 0.02, min_iterations: 2 };
        let timed =
            time(&options, &Device::Cpu, &NoGauge, Stop::NEVER, || Ok(()), |()| sleep()).unwrap();
        assert!(timed.min_s >= 0.002);
        assert!(timed.iterations >= 2);
        assert!(timed.quantiles_s[0] <= timed.median_s && timed.median_s <= timed.quantiles_s[1]);
        let failed: Result<Timed> = time(
            &options,
            &Device::Cpu,
            &NoGauge,
            Stop::NEVER,
            || Ok(()),
            |()| -> Result<()> { Err(crate::Error::Unsupported("no".into())) },
        );
        assert!(failed.is_err());
    }

    #[test]
    fn a_flag_stops_it_between_two_iterations() {
        let options = TimingOptions { warm_up_seconds: 0.0, min_seconds: 1e9, min_iterations: 1 };
        let (flag, runs) = (AtomicBool::new(false), Cell::new(0));
        let work = |(): &()| {
            runs.set(runs.get() + 1);
            flag.store(runs.get() == 3, Ordering::Relaxed);
            Ok(())
        };
        let stop = Stop::when(&flag);
        let timed = time(&options, &Device::Cpu, &NoGauge, stop, || Ok(()), work);
        assert!(matches!(timed, Err(crate::Error::Interrupted)));
        assert_eq!(runs.get(), 3);
    }
}
