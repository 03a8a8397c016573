//! Which way attention takes on a GPU.
//!
//! By default always the one operation of the kernels here, so that the same run gives the same bits again.
//! `UNROLL_GPU_ATTENTION` says otherwise: `tuned` times it and candle's operations when a shape is first met and
//! keeps the faster one for as long as the process lives; `candle` leaves attention to candle's operations.

use std::collections::BTreeMap;
use std::sync::Mutex;

use candle_core::{Result, Tensor, Var, bail};

use super::{Mask, Sizes};
use crate::gpu::tuning::{TIMES, TOLERANCE, difference};
use crate::threads::lock;

/// What `UNROLL_GPU_ATTENTION` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    /// One operation.
    Fused,
    /// By measuring.
    Tuned,
}

impl Policy {
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        Ok(match text {
            None | Some("" | "fused" | "candle") => Self::Fused,
            Some("tuned") => Self::Tuned,
            Some(other) => {
                bail!("UNROLL_GPU_ATTENTION is `{other}`; it can be fused, tuned or candle")
            }
        })
    }
}

/// What a choice holds for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) device: String,
    /// B, N, T, S, d, V.
    pub(super) sizes: [usize; 6],
    /// Steps of the window; 0: all before; `None`: no mask.
    pub(super) window: Option<usize>,
    pub(super) lengths: bool,
    /// Queries, keys and values in one tensor.
    pub(super) packed: bool,
    /// Whether gradients are taken.
    pub(super) gradients: bool,
    pub(super) half: bool,
    pub(super) tf32: bool,
}

impl Key {
    pub(super) fn shape(sizes: Sizes, mask: Mask) -> ([usize; 6], Option<usize>) {
        let Sizes { batch, heads, queries, keys, size, value_size } = sizes;
        let window = match mask {
            Mask::None => None,
            Mask::Causal => Some(0),
            Mask::Window(window) => Some(window),
        };
        ([batch, heads, queries, keys, size, value_size], window)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The kernels here.
    Fused,
    /// candle's operations.
    Candle,
}

/// Bytes of scores beyond which candle's operations are not tried.
const MOST_SCORES: usize = 1 << 30;

/// What was measured, once in the process, with a line that tells it.
static CHOSEN: Mutex<BTreeMap<Key, (Way, String)>> = Mutex::new(BTreeMap::new());

/// What tuning found so far, one line for each shape.
pub(crate) fn findings() -> Vec<String> {
    lock(&CHOSEN).values().map(|(_, line)| line.clone()).collect()
}

/// What measures.
pub(super) trait Clock {
    /// Seconds that the device needs for what `run` asks for.
    fn time(&self, run: &dyn Fn() -> Result<()>) -> Result<f64>;

    /// Whether work can go on: on some devices one failure ends all.
    fn alive(&self) -> Result<()>;
}

/// The faster of two ways to attend to `inputs`, which must agree.
pub(super) fn choose(
    key: Key,
    clock: &dyn Clock,
    inputs: &[&Tensor],
    attend: &dyn Fn(Way, &[Tensor]) -> Result<Tensor>,
) -> Result<Way> {
    let mut chosen = lock(&CHOSEN);
    if let Some((way, _)) = chosen.get(&key) {
        return Ok(*way);
    }
    let (way, found) = measure(&key, clock, inputs, attend)?;
    let line = format!("{}: {found}", title(&key));
    chosen.insert(key, (way, line));
    Ok(way)
}

fn measure(
    key: &Key,
    clock: &dyn Clock,
    inputs: &[&Tensor],
    attend: &dyn Fn(Way, &[Tensor]) -> Result<Tensor>,
) -> Result<(Way, String)> {
    let [batch, heads, queries, keys, ..] = key.sizes;
    let scores = [heads, queries, keys, 4].into_iter().fold(batch, usize::saturating_mul);
    if scores > MOST_SCORES {
        return Ok((Way::Fused, format!("fused; candle not tried: {scores} bytes of scores")));
    }
    // Not the graph that the inputs come from: a gradient ends here.
    let vars: Vec<Var> =
        inputs.iter().map(|x| Var::from_tensor(&x.detach())).collect::<Result<_>>()?;
    let inputs: Vec<Tensor> = vars
        .iter()
        .map(|var| if key.gradients { var.as_tensor().clone() } else { var.as_detached_tensor() })
        .collect();
    let run = |way: Way| -> Result<Vec<Tensor>> {
        let out = attend(way, &inputs)?;
        if !key.gradients {
            return Ok(vec![out]);
        }
        // The output's gradient is twice the output: any will do.
        let mut gradients = out.sqr()?.sum_all()?.backward()?;
        let mut all = vec![out];
        for var in &vars {
            match gradients.remove(var) {
                Some(gradient) => all.push(gradient),
                None => bail!("an attention without a gradient"),
            }
        }
        Ok(all)
    };
    let read = |tensors: Vec<Tensor>| -> Result<Vec<f32>> {
        let mut all = Vec::new();
        for tensor in tensors {
            all.extend(tensor.flatten_all()?.to_dtype(candle_core::DType::F32)?.to_vec1::<f32>()?);
        }
        Ok(all)
    };
    let time = |way: Way| -> Result<f64> {
        let mut least = f64::INFINITY;
        for _ in 0..TIMES {
            least = least.min(clock.time(&|| run(way).map(|_| ()))?);
        }
        Ok(least)
    };
    let expected = read(run(Way::Fused)?)?;
    let fused = time(Way::Fused)?;
    let of_fused = format!("of fused {:.2} us", fused * 1e6);
    // 8 bits of mantissa.
    let tolerance = if key.half { 5e-2 } else { TOLERANCE };
    let candle = run(Way::Candle).and_then(read).and_then(|found| {
        match difference(&expected, &found, tolerance) {
            Some(off) => bail!("differs by {off}"),
            None => time(Way::Candle),
        }
    });
    Ok(match candle {
        Ok(candle) => {
            let (way, name) =
                if candle < fused { (Way::Candle, "candle") } else { (Way::Fused, "fused") };
            (way, format!("{name}, {of_fused}; candle {:.2} us", candle * 1e6))
        }
        Err(error) => {
            let reason = error.to_string();
            if let Err(error) = clock.alive() {
                bail!("attention by candle cannot run ({reason}), and nothing after it: {error}");
            }
            let reason = reason.lines().next().unwrap_or_default();
            (Way::Fused, format!("fused, {of_fused}; candle not usable: {reason}"))
        }
    })
}

fn title(key: &Key) -> String {
    let [batch, heads, queries, keys, size, value_size] = key.sizes;
    let mut title = format!(
        "attention {} B={batch} N={heads} T={queries} S={keys} d={size}",
        if key.gradients { "training" } else { "inference" }
    );
    let mut more = |text: String| {
        title.push(' ');
        title.push_str(&text);
    };
    if value_size != size {
        more(format!("V={value_size}"));
    }
    match key.window {
        None => {}
        Some(0) => more("causal".into()),
        Some(window) => more(format!("window={window}")),
    }
    for (is, text) in
        [(key.lengths, "lengths"), (key.packed, "packed"), (key.half, "half"), (key.tf32, "tf32")]
    {
        if is {
            more(text.into());
        }
    }
    title
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use candle_core::DType;

    use super::*;
    use crate::testing::draw;

    /// Says what is to be measured.
    struct Said<'a>(&'a Cell<f64>);

    impl Clock for Said<'_> {
        fn time(&self, run: &dyn Fn() -> Result<()>) -> Result<f64> {
            run()?;
            Ok(self.0.get())
        }

        fn alive(&self) -> Result<()> {
            Ok(())
        }
    }

    fn key(device: &str, batch: usize, gradients: bool) -> Key {
        let sizes = Sizes { batch, heads: 1, queries: 3, keys: 3, size: 4, value_size: 4 };
        let (sizes, window) = Key::shape(sizes, Mask::Causal);
        Key {
            device: device.into(),
            sizes,
            window,
            lengths: false,
            packed: true,
            gradients,
            half: false,
            tf32: false,
        }
    }

    /// Chooses between a way of 3 seconds and candle's, which is `off` by a factor.
    fn chosen(key: &Key, candle_s: f64, off: f64) -> Way {
        let now = Cell::new(0.0);
        let x = draw(&[3, 4], 1, DType::F32);
        let attend = |way: Way, inputs: &[Tensor]| {
            assert_eq!(inputs[0].track_op(), key.gradients);
            now.set(if way == Way::Fused { 3.0 } else { candle_s });
            if way == Way::Fused { inputs[0].tanh() } else { inputs[0].tanh()? * off }
        };
        choose(key.clone(), &Said(&now), &[&x], &attend).unwrap()
    }

    fn found(key: &Key) -> String {
        let head = title(key);
        findings().into_iter().find(|line| line.starts_with(&head)).unwrap()
    }

    #[test]
    fn the_faster_way_is_kept_for_its_shape() {
        for gradients in [false, true] {
            let (slow, fast) = (key("slow", 21, gradients), key("fast", 22, gradients));
            assert_eq!(chosen(&slow, 4.0, 1.0), Way::Fused);
            assert_eq!(chosen(&fast, 2.0, 1.0), Way::Candle);
            // Measured once: what would be found now does not count.
            assert_eq!(chosen(&slow, 1.0, 1.0), Way::Fused);
            assert_eq!(chosen(&fast, 9.0, 1.0), Way::Candle);
            assert!(found(&slow).ends_with(
                "B=21 N=1 T=3 S=3 d=4 causal packed: fused, of fused 3000000.00 us; candle 4000000.00 us"
            ));
        }
    }

    #[test]
    fn a_way_that_finds_something_else_is_not_used() {
        let key = key("wrong", 23, true);
        assert_eq!(chosen(&key, 1.0, 1.1), Way::Fused);
        assert!(found(&key).contains("candle not usable: differs by "), "{}", found(&key));
    }

    #[test]
    fn a_way_that_fails_is_not_used() {
        let key = key("full", 25, true);
        let now = Cell::new(1.0);
        let x = draw(&[3, 4], 1, DType::F32);
        let attend = |way: Way, inputs: &[Tensor]| match way {
            Way::Fused => inputs[0].tanh(),
            Way::Candle => bail!("out of memory\nat a place"),
        };
        let way = choose(key.clone(), &Said(&now), &[&x], &attend).unwrap();
        assert_eq!(way, Way::Fused);
        assert!(found(&key).contains("candle not usable: out of memory"), "{}", found(&key));
    }

    #[test]
    fn many_scores_are_not_stored() {
        let mut key = key("large", 24, false);
        key.sizes[2..4].copy_from_slice(&[1 << 15, 1 << 15]);
        assert_eq!(chosen(&key, 1.0, 1.0), Way::Fused);
        assert!(found(&key).contains("not tried"), "{}", found(&key));
    }

    #[test]
    fn policies_are_read() {
        assert_eq!(Policy::parse(None).unwrap(), Policy::Fused);
        assert_eq!(Policy::parse(Some("tuned")).unwrap(), Policy::Tuned);
        let error = Policy::parse(Some("fastest")).unwrap_err().to_string();
        assert!(error.contains("fused, tuned or candle"), "{error}");
    }
}
