//! Settings of a training run.

use serde::{Deserialize, Serialize};

use crate::{Clip, OptimizerKind, Schedule, ScheduleKind};

/// How a model is trained. Optimiser settings have PyTorch's names, formulas and defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// `sgd`, `rmsprop`, `adam` or `adamw`.
    pub optimizer: OptimizerKind,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Momentum of `sgd` and `rmsprop`.
    pub momentum: f64,
    /// Whether the momentum of `sgd` looks ahead (Nesterov 1983).
    pub nesterov: bool,
    /// Weight decay of all parameters; not given: 0.01 for `adamw`, 0 for the others.
    pub weight_decay: Option<f64>,
    /// Decay of the first and second moment of `adam` and `adamw`.
    pub betas: [f64; 2],
    /// Decay of the mean square of `rmsprop`.
    pub alpha: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Sequences per step.
    pub batch_size: usize,
    /// Training steps.
    pub steps: u64,
    /// Steps between evaluations on the validation split; the first and last weights are always
    /// evaluated.
    pub eval_every: u64,
    /// Sequences per batch of an evaluation.
    pub eval_batch_size: usize,
    /// Largest norm of the whole gradient.
    pub clip_norm: Option<f64>,
    /// Largest magnitude of a gradient's entry, after `clip_norm`.
    pub clip_value: Option<f64>,
    /// `constant` or `cosine`.
    pub schedule: ScheduleKind,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Learning rate that `cosine` falls to.
    pub min_learning_rate: f64,
    /// Metric on the validation split to reach; not given: where the task counts as solved.
    pub threshold: Option<f64>,
    /// Whether to stop at the first evaluation that reaches the threshold.
    pub stop_at_threshold: bool,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            optimizer: OptimizerKind::Adam,
            learning_rate: 1e-3,
            momentum: 0.0,
            nesterov: false,
            weight_decay: None,
            betas: [0.9, 0.999],
            alpha: 0.99,
            epsilon: 1e-8,
            batch_size: 32,
            steps: 1000,
            eval_every: 100,
            eval_batch_size: 256,
            clip_norm: None,
            clip_value: None,
            schedule: ScheduleKind::Constant,
            warmup_steps: 0,
            min_learning_rate: 0.0,
            threshold: None,
            stop_at_threshold: false,
        }
    }
}

/// A setting that nothing can be trained with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {message}")]
pub struct ConfigError {
    field: &'static str,
    message: String,
}

impl ConfigError {
    /// Name of the setting.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// What is wrong and what would be right, after the name.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl TrainConfig {
    /// Checks the settings.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let require = |field, sound: bool, message: String| {
            if sound { Ok(()) } else { Err(ConfigError { field, message }) }
        };
        let positive = |field, value: f64| {
            let sound = value > 0.0 && value.is_finite();
            require(field, sound, format!("must be positive and finite, not {value}"))
        };
        let not_negative = |field, value: f64| {
            let sound = value >= 0.0 && value.is_finite();
            require(field, sound, format!("must be finite and not negative, not {value}"))
        };
        let fraction = |field, value: f64| {
            let sound = (0.0..1.0).contains(&value);
            require(field, sound, format!("must lie in 0 <= {field} < 1, not {value}"))
        };
        let at_least_one =
            |field, value: u64| require(field, value > 0, "must be at least 1".into());

        positive("learning_rate", self.learning_rate)?;
        fraction("momentum", self.momentum)?;
        let sgd_with_momentum = self.optimizer == OptimizerKind::Sgd && self.momentum > 0.0;
        let message = "needs `optimizer = \"sgd\"` with a momentum above 0";
        require("nesterov", !self.nesterov || sgd_with_momentum, message.into())?;
        not_negative("weight_decay", self.weight_decay())?;
        self.betas.into_iter().try_for_each(|beta| fraction("betas", beta))?;
        fraction("alpha", self.alpha)?;
        positive("epsilon", self.epsilon)?;
        at_least_one("batch_size", self.batch_size as u64)?;
        at_least_one("steps", self.steps)?;
        at_least_one("eval_every", self.eval_every)?;
        at_least_one("eval_batch_size", self.eval_batch_size as u64)?;
        self.clip_norm.map_or(Ok(()), |value| positive("clip_norm", value))?;
        self.clip_value.map_or(Ok(()), |value| positive("clip_value", value))?;
        require(
            "warmup_steps",
            self.warmup_steps <= self.steps,
            format!("must not exceed the {} steps of the run", self.steps),
        )?;
        not_negative("min_learning_rate", self.min_learning_rate)?;
        require(
            "min_learning_rate",
            self.min_learning_rate <= self.learning_rate,
            format!("must not exceed the learning rate {}", self.learning_rate),
        )?;
        let finite = self.threshold.is_none_or(f64::is_finite);
        require("threshold", finite, "must be a finite number".into())
    }

    /// The weight decay given, or the optimiser's default.
    pub fn weight_decay(&self) -> f64 {
        let default = if self.optimizer == OptimizerKind::AdamW { 0.01 } else { 0.0 };
        self.weight_decay.unwrap_or(default)
    }

    /// The learning rates.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            kind: self.schedule,
            peak: self.learning_rate,
            floor: self.min_learning_rate,
            warmup_steps: self.warmup_steps,
            steps: self.steps,
        }
    }

    /// The bounds of gradients.
    pub fn clip(&self) -> Clip {
        Clip { norm: self.clip_norm, value: self.clip_value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_sound_and_survive_serialisation() {
        let config = TrainConfig::default();
        config.validate().unwrap();
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
        assert_eq!(serde_json::from_str::<TrainConfig>("{}").unwrap(), config);
        assert!(serde_json::from_str::<TrainConfig>(r#"{"lr": 0.1}"#).is_err());
    }

    #[test]
    fn optimizers_go_by_their_usual_names() {
        for (name, kind) in [
            ("sgd", OptimizerKind::Sgd),
            ("rmsprop", OptimizerKind::RmsProp),
            ("adam", OptimizerKind::Adam),
            ("adamw", OptimizerKind::AdamW),
        ] {
            let config: TrainConfig =
                serde_json::from_str(&format!(r#"{{"optimizer": "{name}"}}"#)).unwrap();
            assert_eq!(config.optimizer, kind);
            assert_eq!(config.weight_decay(), if name == "adamw" { 0.01 } else { 0.0 });
        }
    }

    #[test]
    fn wrong_settings_are_named() {
        type Spoil = fn(&mut TrainConfig);
        let wrong: [(&str, Spoil); 16] = [
            ("learning_rate", |c| c.learning_rate = f64::NAN),
            ("learning_rate", |c| c.learning_rate = 0.0),
            ("momentum", |c| c.momentum = 1.0),
            ("nesterov", |c| c.nesterov = true),
            ("weight_decay", |c| c.weight_decay = Some(-1.0)),
            ("betas", |c| c.betas = [0.9, 1.0]),
            ("alpha", |c| c.alpha = -0.1),
            ("epsilon", |c| c.epsilon = 0.0),
            ("batch_size", |c| c.batch_size = 0),
            ("steps", |c| c.steps = 0),
            ("eval_every", |c| c.eval_every = 0),
            ("eval_batch_size", |c| c.eval_batch_size = 0),
            ("clip_norm", |c| c.clip_norm = Some(0.0)),
            ("warmup_steps", |c| c.warmup_steps = 1001),
            ("min_learning_rate", |c| c.min_learning_rate = 1.0),
            ("threshold", |c| c.threshold = Some(f64::INFINITY)),
        ];
        for (field, spoil) in wrong {
            let mut config = TrainConfig::default();
            spoil(&mut config);
            assert_eq!(config.validate().unwrap_err().field(), field);
        }
    }
}
