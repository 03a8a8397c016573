//! Every section and key of an experiment file, with type, default and a line of help: what `unroll list settings`
//! prints. Defaults come from the types that parse the file, and a test holds the table to them: each of their
//! fields is in it, and each entry is one of their fields.

use serde::Serialize;
use serde_json::{Map, Value, json};
use unroll_core::Init;
use unroll_train::TrainConfig;

use super::{
    EvaluateSettings, Experiment, GradientSettings, JacobianSettings, Matching, ThroughputSettings,
};

/// A key of an experiment file.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name.
    pub key: &'static str,
    /// What it holds; names that it can have stand in backticks with `|` between.
    pub kind: &'static str,
    /// What it does.
    pub help: &'static str,
}

/// A table of an experiment file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its name; empty above the first heading.
    pub name: &'static str,
    /// How it is written.
    pub heading: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// Its keys, in their order.
    pub settings: &'static [Setting],
    /// A few lines as they stand in a file, where the shape needs one.
    pub example: &'static str,
    defaults: fn() -> Map<String, Value>,
}

impl Section {
    /// What a key has when it is left out; `None` where it must be given or nothing stands for it.
    pub fn default_of(&self, key: &str) -> Option<Value> {
        (self.defaults)().remove(key).filter(|value| !value.is_null())
    }
}

const fn setting(key: &'static str, kind: &'static str, help: &'static str) -> Setting {
    Setting { key, kind, help }
}

fn defaults_of<T: Serialize + Default>() -> Map<String, Value> {
    match serde_json::to_value(T::default()) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The shortest file: what stands in it has no default.
fn defaults_of_a_file() -> Map<String, Value> {
    let shortest = json!({ "name": "", "question": "", "axes": {} });
    let file = serde_json::from_value::<Experiment>(shortest).and_then(serde_json::to_value);
    let Ok(Value::Object(mut file)) = file else { return Map::new() };
    // Left out of files where they are not set.
    file.entry("keep_weights").or_insert(false.into());
    file.retain(|key, value| {
        let is_given = ["name", "question", "axes"].contains(&key.as_str());
        !is_given && !value.is_object()
    });
    file
}

fn none() -> Map<String, Value> {
    Map::new()
}

/// The sections, in the order in which files have them.
pub const SECTIONS: &[Section] = &[
    Section {
        name: "",
        heading: "(at the top)",
        help: "what is asked and measured",
        settings: &[
            setting(
                "name",
                "text, required",
                "letters, digits, `_` and `-`: the folder under results/",
            ),
            setting("question", "text, required", "what is asked, in prose"),
            setting("analysis", "text", "how the answer is read from tables and plots, in prose"),
            setting(
                "measure",
                "list of `quality` | `gradient` | `throughput`",
                "what is measured in each cell: training, gradient decay, speed",
            ),
            setting(
                "dtype",
                "`f32` | `f64` | `bf16`",
                "element type of parameters and activations",
            ),
            setting(
                "precision",
                "`fp32` | `tf32`",
                "how f32 products on a GPU round what they read",
            ),
            setting(
                "keep_weights",
                "true or false",
                "keep the weights of trained models, for `unroll sample` and `unroll eval`",
            ),
        ],
        example: "",
        defaults: defaults_of_a_file,
    },
    Section {
        name: "axes",
        heading: "[axes]",
        help: "lists of values, of which all combinations are run",
        settings: &[
            setting("task", "list of names, required", "tasks: `unroll list` names them"),
            setting("arch", "list of names, required", "architectures: `unroll list` names them"),
            setting(
                "length",
                "list of whole numbers",
                "steps of a sequence; needed by tasks of any length",
            ),
            setting(
                "seed",
                "list of whole numbers",
                "seeds of initial values, batches and dropout; not given: 0",
            ),
            setting(
                "device",
                "list of names",
                "`cpu`, `cuda`, `cuda:1`; `--device` replaces it; not given: `cpu`",
            ),
            setting("dtype", "list of names", "as `dtype` at the top"),
            setting("precision", "list of names", "as `precision` at the top"),
            setting(
                "\"TABLE.KEY\"",
                "list of values",
                "any setting below by its dotted path, in quotation marks: \"train.learning_rate\" = [0.01, 0.001]",
            ),
        ],
        example: "",
        defaults: none,
    },
    Section {
        name: "model",
        heading: "[model]",
        help: "options of every architecture that has them",
        settings: &[setting(
            "OPTION",
            "as the option",
            "hidden_size, num_layers, num_heads, ...: `unroll list ARCHITECTURE` shows names, defaults and help",
        )],
        example: "",
        defaults: none,
    },
    Section {
        name: "arch",
        heading: "[arch.ARCHITECTURE]",
        help: "options of one architecture, over those of [model]",
        settings: &[setting("OPTION", "as the option", "`unroll list ARCHITECTURE` shows them")],
        example: "",
        defaults: none,
    },
    Section {
        name: "task",
        heading: "[task.TASK]",
        help: "options of one task",
        settings: &[setting("OPTION", "as the option", "`unroll list TASK` shows them")],
        example: "",
        defaults: none,
    },
    Section {
        name: "init",
        heading: "[init]",
        help: "how parameters start",
        settings: &[
            setting(
                "weight",
                "`pytorch` | `xavier` | `orthogonal` | `identity`",
                "weight matrices",
            ),
            setting(
                "bias",
                "`pytorch` | `zero` | `forget` | `chrono`",
                "biases of recurrent layers",
            ),
            setting(
                "gain",
                "number",
                "factor on recurrent weights under `orthogonal` and `identity`",
            ),
            setting(
                "forget_bias",
                "number",
                "bias of the remembering gate under bias = \"forget\"",
            ),
            setting("t_max", "number from 3", "longest time scale under bias = \"chrono\", steps"),
        ],
        example: "",
        defaults: defaults_of::<Init>,
    },
    Section {
        name: "train",
        heading: "[train]",
        help: "training; optimisers have PyTorch's names and formulas",
        settings: &[
            setting("optimizer", "`sgd` | `rmsprop` | `adam` | `adamw`", "the optimiser"),
            setting("learning_rate", "number above 0", "highest learning rate"),
            setting("momentum", "number, 0 to below 1", "momentum of `sgd` and `rmsprop`"),
            setting("nesterov", "true or false", "whether the momentum of `sgd` looks ahead"),
            setting(
                "weight_decay",
                "number from 0",
                "decay of all parameters; not given: 0.01 for `adamw`, 0 for the others",
            ),
            setting(
                "betas",
                "two numbers, 0 to below 1",
                "decay of both moments of `adam` and `adamw`",
            ),
            setting("alpha", "number, 0 to below 1", "decay of the mean square of `rmsprop`"),
            setting("epsilon", "number above 0", "added to the root of the second moment"),
            setting("batch_size", "whole number from 1", "sequences per step"),
            setting("steps", "whole number from 1", "training steps"),
            setting(
                "eval_every",
                "whole number from 1",
                "steps between evaluations on the validation split; the first and last weights always are",
            ),
            setting(
                "eval_batch_size",
                "whole number from 1",
                "sequences per batch of an evaluation",
            ),
            setting(
                "clip_norm",
                "number above 0",
                "largest norm of the whole gradient; not given: any",
            ),
            setting(
                "clip_value",
                "number above 0",
                "largest magnitude of a gradient's entry, after clip_norm; not given: any",
            ),
            setting("schedule", "`constant` | `cosine`", "learning rate after the warm-up"),
            setting("warmup_steps", "whole number", "steps of linear warm-up"),
            setting("min_learning_rate", "number from 0", "learning rate that `cosine` falls to"),
            setting(
                "threshold",
                "number",
                "metric on the validation split to reach; not given: where the task counts as solved",
            ),
            setting(
                "stop_at_threshold",
                "true or false",
                "whether to stop at the first evaluation that reaches the threshold",
            ),
        ],
        example: "",
        defaults: defaults_of::<TrainConfig>,
    },
    Section {
        name: "match",
        heading: "[match]",
        help: "what is held equal over architectures, whose hidden sizes follow",
        settings: &[
            setting(
                "by",
                "`hidden_size` | `parameters` | `flops`",
                "what is equal; hidden_size: as given",
            ),
            setting("reference", "name", "the architecture that keeps its hidden size"),
        ],
        example: "",
        defaults: defaults_of::<Matching>,
    },
    Section {
        name: "gradient",
        heading: "[gradient]",
        help: "gradients, where `measure` has them",
        settings: &[
            setting("examples", "whole number from 1", "sequences whose norms are averaged"),
            setting("before_training", "true or false", "trials that train: before the first step"),
            setting("after_training", "true or false", "trials that train: after the last step"),
            setting(
                "every",
                "whole number",
                "trials that train: each time so many steps are done; 0: never",
            ),
            setting("at_steps", "list of whole numbers", "trials that train: after so many steps"),
            setting(
                "jacobian",
                "table",
                "Jacobians of recurrent states, [gradient.jacobian]; not given: none",
            ),
            setting("gates", "true or false", "whether gates of recurrent layers are looked at"),
            setting("attention_examples", "whole number", "sequences whose attention is looked at"),
        ],
        example: "",
        defaults: defaults_of::<GradientSettings>,
    },
    Section {
        name: "gradient.jacobian",
        heading: "[gradient.jacobian]",
        help: "Jacobians and Lyapunov exponents of recurrent states, measured where this table is",
        settings: &[
            setting("examples", "whole number from 1", "sequences along which they are measured"),
            setting(
                "exact_up_to",
                "whole number",
                "states of more elements are measured by random vectors",
            ),
            setting("probes", "whole number from 1", "random vectors"),
        ],
        example: "",
        defaults: defaults_of::<JacobianSettings>,
    },
    Section {
        name: "throughput",
        heading: "[throughput]",
        help: "speed, where `measure` has it",
        settings: &[
            setting("batch_size", "whole number from 1", "sequences per batch"),
            setting(
                "min_seconds",
                "number, 0 to 3600",
                "shortest time to measure a phase for, seconds",
            ),
            setting("min_iterations", "whole number from 1", "fewest iterations of a phase"),
            setting("decode", "true or false", "whether causal models are timed step by step too"),
        ],
        example: "",
        defaults: defaults_of::<ThroughputSettings>,
    },
    Section {
        name: "evaluate",
        heading: "[evaluate]",
        help: "trained models at other lengths",
        settings: &[setting("lengths", "list of whole numbers", "the lengths, steps")],
        example: "",
        defaults: defaults_of::<EvaluateSettings>,
    },
    Section {
        name: "exclude",
        heading: "[[exclude]]",
        help: "cells of the sweep to leave out, those where all of its lines hold; any number of such tables",
        settings: &[setting(
            "AXIS",
            "value or list of values",
            "an axis, or `measure`, and the values that it has in those cells",
        )],
        example: "[[exclude]]\narch = \"rnn\"\nlength = [100, 200]",
        defaults: none,
    },
    Section {
        name: "override",
        heading: "[[override]]",
        help: "settings that differ in some cells of the sweep; the last of those that hold wins, and an axis over it",
        settings: &[
            setting(
                "when",
                "table, required",
                "the cells, as in [[exclude]]: axes and `measure` to their values",
            ),
            setting("set", "table, required", "dotted paths of settings to their values there"),
        ],
        example: "[[override]]\nwhen = { arch = [\"gru\", \"lstm\"], length = 100 }\n\
                  set = { \"train.learning_rate\" = 0.001, \"model.hidden_size\" = 32 }",
        defaults: none,
    },
    Section {
        name: "expect",
        heading: "[[expect]]",
        help: "what `unroll gate` holds the results to",
        settings: &[
            setting(
                "measure",
                "`test` | `solved` | `steps_to_threshold` | `half_life` | `horizon`, required",
                "what is looked at; the last two are of dL/dx before training",
            ),
            setting("arch", "name", "architecture; not given: any"),
            setting("series", "text", "series, where an architecture has several; not given: any"),
            setting("task", "name", "task; not given: any"),
            setting("length", "whole number", "length; not given: any"),
            setting("over", "`median` | `every`", "of the seeds: their median, or the worst"),
            setting("at_most", "number", "it is at most this"),
            setting("at_least", "number", "it is at least this"),
            setting(
                "exactly",
                "number",
                "it is this to the last bit, on machines of the kind `on`",
            ),
            setting(
                "on",
                "text",
                "kind of machine that `exactly` is of, as `unroll gate` prints it",
            ),
        ],
        example: "[[expect]]\nmeasure = \"solved\"\narch = \"gru\"\nat_least = 1.0",
        defaults: || {
            let median = serde_json::to_value(super::OverSeeds::default()).unwrap_or_default();
            Map::from_iter([("over".to_owned(), median)])
        },
    },
];

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::super::{Expectation, Override};
    use super::*;

    /// The names in backticks.
    fn names(text: &str) -> Vec<&str> {
        text.split('`').skip(1).step_by(2).collect()
    }

    /// The fields of a type, from its own error about a field that it does not have.
    fn fields<T: DeserializeOwned>(needed: Value) -> Vec<String> {
        let mut given = needed;
        given["no such field"] = 0.into();
        let error = serde_json::from_value::<T>(given).map(|_| ()).unwrap_err().to_string();
        let expected = error.split_once("expected").unwrap().1.to_owned();
        names(&expected).into_iter().map(str::to_owned).collect()
    }

    fn section(name: &str) -> &'static Section {
        SECTIONS.iter().find(|section| section.name == name).unwrap()
    }

    fn keys(name: &str) -> Vec<String> {
        section(name).settings.iter().map(|setting| setting.key.to_owned()).collect()
    }

    #[test]
    fn every_field_is_listed_and_nothing_else() {
        let none = || json!({});
        for (name, fields) in [
            ("init", fields::<Init>(none())),
            ("train", fields::<TrainConfig>(none())),
            ("match", fields::<Matching>(none())),
            ("gradient", fields::<GradientSettings>(none())),
            ("gradient.jacobian", fields::<JacobianSettings>(none())),
            ("throughput", fields::<ThroughputSettings>(none())),
            ("evaluate", fields::<EvaluateSettings>(none())),
            ("override", fields::<Override>(none())),
            ("expect", fields::<Expectation>(none())),
        ] {
            // One field is "expected `x`", several are "expected one of".
            assert_eq!(keys(name), fields, "{name}");
        }
        let mut all = keys("");
        all.extend(SECTIONS.iter().map(|section| section.name.to_owned()));
        all.retain(|name| !name.is_empty() && !name.contains('.'));
        let mut known = fields::<Experiment>(none());
        all.sort();
        known.sort();
        assert_eq!(all, known);
    }

    /// A file with one value at the place of a setting.
    fn file(section: &str, key: &str, value: Value) -> serde_json::Result<Experiment> {
        let mut file = json!({ "name": "x", "question": "?", "axes": {} });
        match section {
            "" => file[key] = value,
            "gradient.jacobian" => file["gradient"]["jacobian"][key] = value,
            "override" => {
                file[section] = json!([{ "when": {}, "set": {} }]);
                file[section][0][key] = value;
            }
            "expect" => {
                file[section] = json!([{ "measure": "test" }]);
                file[section][0][key] = value;
            }
            _ => file[section][key] = value,
        }
        serde_json::from_value(file)
    }

    #[test]
    fn defaults_and_names_are_those_that_are_parsed() {
        for section in SECTIONS.iter().filter(|section| section.name != "axes") {
            for setting in section.settings {
                let (name, key) = (section.name, setting.key);
                if let Some(default) = section.default_of(key) {
                    assert!(file(name, key, default.clone()).is_ok(), "{name}.{key} = {default}");
                }
                let choices = names(setting.kind);
                if choices.is_empty() {
                    continue;
                }
                let in_shape = |name: &str| match setting.kind.starts_with("list of") {
                    true => json!([name]),
                    false => json!(name),
                };
                for choice in &choices {
                    assert!(file(name, key, in_shape(choice)).is_ok(), "{name}.{key} = {choice}");
                }
                let error = file(name, key, in_shape("no such name")).unwrap_err().to_string();
                let expected = error.split_once("expected").unwrap().1;
                assert_eq!(names(expected), choices, "{name}.{key}");
            }
            if !section.example.is_empty() {
                let text = format!("name = 'x'\nquestion = '?'\naxes = {{}}\n{}", section.example);
                toml::from_str::<Experiment>(&text).unwrap();
            }
        }
        // Whole-file defaults that are tables stand in sections of their own.
        assert_eq!(section("").default_of("measure"), Some(json!(["quality"])));
        assert_eq!(section("").default_of("keep_weights"), Some(json!(false)));
        assert_eq!(section("train").default_of("eval_batch_size"), Some(json!(256)));
        assert_eq!(section("train").default_of("clip_value"), None);
    }

    #[test]
    fn axes_are_those_that_the_planner_knows() {
        use super::super::planner::{NAMED_AXES, SETTING_AXES};
        let mut known = [&NAMED_AXES[..], &SETTING_AXES].concat();
        let mut listed = keys("axes");
        listed.retain(|key| !key.starts_with('"'));
        known.sort_unstable();
        listed.sort();
        assert_eq!(listed, known);
    }
}
