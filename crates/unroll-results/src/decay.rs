//! Laws of gradient decay: rates, half-lives, horizons.
//!
//! | measure | formula | unit |
//! |---|---|---|
//! | rate | slope of `ln norm` against distance, least squares | nats per step |
//! | half-life | `-ln 2 / rate` | steps |
//! | exponent | slope of `ln norm` against `ln distance` | |
//! | horizon | first distance at which the norm has fallen to a fraction of that at distance 0 | steps |
//! | reach | smallest distance within which 99 % of the sum of norms over all distances lie | steps |
//!
//! A recurrence multiplies one Jacobian per step and decays exponentially (Bengio, Simard & Frasconi
//! 1994); an average over `T` values gives each about `1/T`, and a mixture of many exponentials looks
//! like a power law. Both laws have two parameters, so that the one with the smaller sum of squared
//! residuals is also the one with the smaller AIC (Akaike 1974).

use crate::record::{GradientOf, GradientPoint};
use crate::statistics::LineFit;

/// Which law fits better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecayLaw {
    /// `norm = a exp(b distance)`: recurrent models.
    Exponential,
    /// `norm = a distance^b`: averages over the sequence.
    Power,
}

impl DecayLaw {
    /// Name in tables: `exponential`, `power law`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exponential => "exponential",
            Self::Power => "power law",
        }
    }
}

/// Laws fitted by least squares to the mean logarithm over the distances `from..=to`.
///
/// Left out are distance 0 (a power law has no value there), distances at which a seed's norm is
/// 0 and, for f32, norms below the smallest normal number, whose digits are lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decay {
    /// Smallest distance fitted.
    pub from: usize,
    /// Largest distance fitted.
    pub to: usize,
    /// ln norm against distance: the slope is the rate per step.
    pub exponential: LineFit,
    /// ln norm against ln distance: the slope is the exponent.
    pub power: LineFit,
}

impl Decay {
    /// Through points of (distance, ln norm) in order of distance, without distance 0; `None` with fewer
    /// than three.
    pub fn of(points: &[(usize, f64)]) -> Option<Self> {
        let exponential: Vec<_> = points.iter().map(|&(d, ln)| (d as f64, ln)).collect();
        let power: Vec<_> = points.iter().map(|&(d, ln)| ((d as f64).ln(), ln)).collect();
        // Two points lie on both laws: nothing could be told apart.
        if points.len() < 3 {
            return None;
        }
        Some(Self {
            from: points.first()?.0,
            to: points.last()?.0,
            exponential: LineFit::of(&exponential)?,
            power: LineFit::of(&power)?,
        })
    }

    /// Whether what the norm changes by over the fitted distances, by either law, is within rounding
    /// (1e-6 nats). What is left then has a sign and a best law, and neither means anything.
    pub fn is_flat(&self) -> bool {
        const ROUNDING: f64 = 1e-6;
        let (from, to) = (self.from as f64, self.to as f64);
        let changes = [self.exponential.slope * (to - from), self.power.slope * (to / from).ln()];
        changes.iter().all(|change| change.abs() < ROUNDING)
    }

    /// Steps over which the norm halves; `None` when it does not shrink.
    pub fn half_life(&self) -> Option<f64> {
        if self.is_flat() { None } else { half_life(self.exponential.slope) }
    }

    /// The law with the larger r squared, the exponential one when they tie; `None` when the norm is
    /// [flat](Self::is_flat).
    pub fn better_law(&self) -> Option<DecayLaw> {
        if self.is_flat() {
            None
        } else if self.power.r_squared > self.exponential.r_squared {
            Some(DecayLaw::Power)
        } else {
            Some(DecayLaw::Exponential)
        }
    }

    /// `ln((1 - r2_power) / (1 - r2_exponential))`, the logarithm of the ratio of squared residuals:
    /// positive when the exponential law fits better. Bounded where a fit is perfect.
    pub fn evidence(&self) -> f64 {
        // Rounding leaves a perfect fit a residual of about 1e-16.
        let residual = |fit: &LineFit| (1.0 - fit.r_squared).max(1e-15);
        (residual(&self.power) / residual(&self.exponential)).ln()
    }
}

/// Steps over which a norm with this rate (nats per step) halves; `None` when it does not shrink.
pub fn half_life(rate: f64) -> Option<f64> {
    (rate < 0.0).then(|| -std::f64::consts::LN_2 / rate)
}

/// How far back one trial's gradient reaches, for one derivative, layer and training step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// What the loss is differentiated by.
    pub of: GradientOf,
    /// Layer of the state.
    pub layer: usize,
    /// Training steps done.
    pub step: u64,
    /// Largest distance measured: horizons beyond it are `None`.
    pub measured_to: usize,
    /// Fitted laws; `None` with fewer than three usable distances.
    pub decay: Option<Decay>,
    /// Distance at which the norm has fallen to 1 % of that at distance 0.
    pub horizon_percent: Option<f64>,
    /// Distance at which the norm has fallen to f32's epsilon (1.19e-7) of that at distance 0: beyond
    /// it a gradient is lost when added to one of the last step's size.
    pub horizon_epsilon: Option<f64>,
    /// Smallest distance within which 99 % of the sum of norms lie; `None` when all norms are 0.
    pub reach: Option<usize>,
}

/// The reach of every derivative, layer and training step in a record's points, which are in order of
/// distance within each.
pub fn reaches(points: &[GradientPoint]) -> Vec<Reach> {
    let key = |point: &GradientPoint| (point.step, point.of, point.layer);
    let mut groups = std::collections::BTreeMap::<_, Vec<&GradientPoint>>::new();
    for point in points {
        groups.entry(key(point)).or_default().push(point);
    }
    let reach = |((step, of, layer), points): ((u64, GradientOf, usize), Vec<&GradientPoint>)| {
        let usable: Vec<(usize, f64)> = points
            .iter()
            .filter(|point| point.distance > 0)
            .filter_map(|point| {
                Some((point.distance, point.mean_log_norm.filter(|ln| ln.is_finite())?))
            })
            .collect();
        // Where a norm is 0 the mean of logarithms is minus infinity.
        let curve: Vec<(f64, f64)> = points
            .iter()
            .map(|p| (p.distance as f64, p.mean_log_norm.unwrap_or(f64::NEG_INFINITY)))
            .collect();
        Reach {
            of,
            layer,
            step,
            measured_to: points.last().map_or(0, |point| point.distance),
            decay: Decay::of(&usable),
            horizon_percent: horizon(&curve, 0.01),
            horizon_epsilon: horizon(&curve, f64::from(f32::EPSILON)),
            reach: share_within(&points, 0.99),
        }
    };
    groups.into_iter().map(reach).collect()
}

/// First distance at which the norm has fallen to `fraction` of that at distance 0, between the two
/// measured distances around it by a straight line in the logarithm.
fn horizon(curve: &[(f64, f64)], fraction: f64) -> Option<f64> {
    let &(first, start) = curve.first()?;
    if first != 0.0 || !start.is_finite() {
        return None;
    }
    let limit = start + fraction.ln();
    let after = curve.iter().position(|&(_, ln)| ln <= limit)?;
    let ((d0, ln0), (d1, ln1)) = (curve[after.checked_sub(1)?], curve[after]);
    if ln1 == f64::NEG_INFINITY {
        return Some(d1);
    }
    Some(d0 + (d1 - d0) * (ln0 - limit) / (ln0 - ln1))
}

fn share_within(points: &[&GradientPoint], share: f64) -> Option<usize> {
    let largest = points.iter().map(|p| p.ln_mean_norm).fold(f64::NEG_INFINITY, f64::max);
    if !largest.is_finite() {
        return None;
    }
    let norms: Vec<f64> = points.iter().map(|p| (p.ln_mean_norm - largest).exp()).collect();
    let total: f64 = norms.iter().sum();
    let mut sum = 0.0;
    points.iter().zip(norms).find_map(|(point, norm)| {
        sum += norm;
        (sum >= share * total).then_some(point.distance)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(law: impl Fn(f64) -> f64, to: usize) -> Vec<GradientPoint> {
        let point = |distance: usize| {
            let ln = law(distance as f64);
            GradientPoint {
                of: GradientOf::Input,
                layer: 0,
                step: 0,
                distance,
                ln_mean_norm: ln,
                mean_log_norm: ln.is_finite().then_some(ln),
                ln_quantiles: [ln; 3],
            }
        };
        (0..=to).map(point).collect()
    }

    #[test]
    fn an_exponential_has_the_horizons_of_its_rate() {
        // REFERENCE: a zero-weight LSTM with forget bias 2 has a half-life of 5.46 steps.
        let rate = (1.0 / (1.0 + (-2.0f64).exp())).ln();
        let reach = reaches(&points(|d| 3.0 + rate * d, 5000))[0];
        let decay = reach.decay.unwrap();
        assert!((decay.half_life().unwrap() - 5.46).abs() < 5e-3);
        assert_eq!(decay.better_law(), Some(DecayLaw::Exponential));
        assert!(decay.evidence() > 10.0);
        assert!((reach.horizon_percent.unwrap() - 0.01f64.ln() / rate).abs() < 1e-9);
        let epsilon = 2f64.powi(-23).ln() / rate;
        assert!((reach.horizon_epsilon.unwrap() - epsilon).abs() < 1e-9);
        // The sum over distances 0..=d is 1 - q^(d+1) of the whole.
        let exact = (0.01f64.ln() / rate).ceil() as usize - 1;
        assert_eq!(reach.reach, Some(exact));
    }

    #[test]
    fn a_flat_gradient_has_no_horizon_and_reaches_back_to_the_start() {
        let reach = reaches(&points(|d| if d > 0.0 { -6.0 - 0.5 * d.ln() } else { -5.0 }, 999))[0];
        assert_eq!(reach.horizon_percent, None);
        assert!(reach.reach.unwrap() > 950, "{reach:?}");
        assert_eq!(reach.decay.unwrap().better_law(), Some(DecayLaw::Power));
        assert!(reach.decay.unwrap().evidence() < -10.0);
        assert_eq!(reach.measured_to, 999);
    }

    #[test]
    fn rounding_is_no_law() {
        // An orthogonal recurrence without activation: 1, but for rounding, at every distance.
        for noise in [4e-16, -4e-16] {
            let wave = |d: f64| noise * (1.0 + (0.7 * d).sin() + 0.01 * d);
            let decay = reaches(&points(wave, 255))[0].decay.unwrap();
            assert!(decay.is_flat() && decay.exponential.slope != 0.0, "{decay:?}");
            assert_eq!((decay.half_life(), decay.better_law()), (None, None));
        }
        // 1e-5 nats over 5000 steps is a slope, though a small one.
        let decay = reaches(&points(|d| -2e-9 * d, 5000))[0].decay.unwrap();
        assert!(!decay.is_flat());
        assert!((decay.half_life().unwrap() * 2e-9 / std::f64::consts::LN_2 - 1.0).abs() < 1e-3);
    }

    #[test]
    fn a_window_ends_where_it_ends() {
        let reach =
            reaches(&points(|d| if d < 8.0 { -d / 10.0 } else { f64::NEG_INFINITY }, 50))[0];
        assert_eq!(reach.horizon_percent, Some(8.0));
        assert_eq!(reach.decay.unwrap().to, 7);
        assert_eq!(reach.reach, Some(7));
    }

    #[test]
    fn nothing_is_made_up_where_nothing_was_measured() {
        let reach = reaches(&points(|_| f64::NEG_INFINITY, 20))[0];
        assert_eq!((reach.decay, reach.horizon_percent, reach.reach), (None, None, None));
        assert!(reaches(&[]).is_empty());
        let grows = reaches(&points(|d| 0.1 * d, 50))[0];
        assert_eq!((grows.decay.unwrap().half_life(), grows.horizon_percent), (None, None));
        assert_eq!(grows.reach, Some(50));
    }
}
