//! The answer in three sentences: what is best, how sure that is, what it costs.

use unroll_results::Summary;
use unroll_results::decision::{
    ALPHA, Candidate, Decision, Decisions, Overall, Speed, Standing, Versus, fewest_seeds_for,
};
use unroll_results::record::{GradientOf, Phase};
use unroll_results::statistics::ranks::fewest_tasks;
use unroll_results::statistics::{Interval, median};
use unroll_results::summary::Moment;

use crate::decide::{NO_CHOICE, gain};
use crate::document::Words;
use crate::rows::{prefixed, significant};

/// Names in one sentence.
const NAMES: usize = 4;

/// The sentences; one that nothing was measured for is left out.
pub(crate) fn sentences(summary: &Summary, decisions: &Decisions) -> Vec<Words> {
    if decisions.cells.is_empty() {
        return without_quality(summary);
    }
    let sentences = [best(decisions), sureness(decisions), cost(decisions)];
    sentences.into_iter().filter(|words| !words.is_empty()).collect()
}

/// `MSE 0.00123`.
fn value(cell: &Decision, candidate: &Candidate) -> String {
    match candidate.metric {
        Some(value) => format!("{} {}", cell.metric, significant(value)),
        None => "no finite value".to_owned(),
    }
}

fn place(cell: &Decision) -> String {
    format!("{} at length {}", cell.task, cell.length)
}

fn best(decisions: &Decisions) -> Words {
    let learned = learned(decisions);
    if learned.is_empty() {
        return if decisions.cells.iter().all(|cell| cell.nothing_learned) {
            "Nothing was learned: no run of any series is better than the best trivial baseline."
        } else {
            "Nothing was learned: as a whole no series is better than the best trivial baseline beyond chance."
        }
        .into();
    }
    if let [cell] = learned[..] {
        let winner = cell.winner();
        let solved = solved(cell, winner);
        let words = Words::new()
            .text(format!("On {}, ", place(cell)))
            .strong(&winner.series)
            .text(format!("{}: {}{solved}", does(cell), value(cell, winner)));
        return match decisions.cells.len() - 1 {
            0 => words.text("."),
            1 => words.text("; at the other task and length nothing was learned."),
            others => words.text(format!(
                "; in the {others} other combinations of task and length nothing was learned."
            )),
        };
    }
    if let Some(overall) = decisions.overall.as_ref().filter(|overall| overall.learned > 1) {
        let order = overall.order();
        let first = &overall.series[order[0]];
        let (all, learned) = (overall.cells.len(), overall.learned);
        let which = if learned < all {
            format!(
                "Over the {learned} of {all} combinations of task and length in which something was learned, "
            )
        } else {
            format!("Over {all} combinations of task and length, ")
        };
        let mut words = Words::from(which).strong(&first.name);
        let tied: Vec<&str> = match &overall.ranking {
            Some(ranking) => order[1..]
                .iter()
                .filter(|&&other| ranking.average[other] == ranking.average[order[0]])
                .map(|&other| overall.series[other].name.as_str())
                .collect(),
            None => Vec::new(),
        };
        if !tied.is_empty() {
            words = words.text(", tied with ").names(tied, NAMES).text(",");
        }
        words = match &overall.ranking {
            Some(ranking) => words.text(format!(
                " has the best average rank ({} of {} series)",
                significant(ranking.average[order[0]]),
                overall.series.len()
            )),
            None => words.text(" comes first"),
        };
        words = words.text(format!(" and is unbeaten in {} of them", first.first));
        if let Some(skill) = first.skill {
            let interval = first.interval.map_or_else(String::new, |i| format!(" {}", ends(i)));
            let over = if learned < all { format!(" over all {all}") } else { String::new() };
            words = words.text(format!(
                "; its interquartile mean skill{over} is {skill:.2}{interval}, where 0 is the best trivial \
                 baseline and 1 is perfect"
            ));
        }
        return alike(words, overall, order[0]).text(".");
    }
    let mut words = Words::new();
    for (number, cell) in learned.iter().take(NAMES).enumerate() {
        let start = if number == 0 { "On " } else { "; on " };
        words = words
            .text(format!("{start}{}, ", place(cell)))
            .strong(&cell.winner().series)
            .text(does(cell));
    }
    words.text(".")
}

/// The combinations in which something was learned: those that anything is said of.
fn learned(decisions: &Decisions) -> Vec<&Decision> {
    decisions.cells.iter().filter(|cell| cell.learned()).collect()
}

/// What the best series does, after its name.
fn does(cell: &Decision) -> &'static str {
    match cell.standing() {
        Standing::SingledOut => " does best",
        Standing::Alone => ", which is alone, has",
        Standing::Open if cell.open().any(|(_, versus)| versus.equal) => {
            ", level with others, is first"
        }
        Standing::Open => " is ahead",
        Standing::NothingLearned => " is at chance",
    }
}

/// Which series the ranks do not tell apart from the first.
fn alike(words: Words, overall: &Overall, first: usize) -> Words {
    let Some(ranking) = &overall.ranking else { return words };
    let other = |(a, b, p): &(usize, usize, f64)| match (*a == first, *b == first) {
        (true, _) if *p >= ALPHA => Some(*b),
        (_, true) if *p >= ALPHA => Some(*a),
        _ => None,
    };
    let open: Vec<usize> = ranking.pairs.iter().filter_map(other).collect();
    if open.is_empty() {
        return words;
    }
    let names = open.iter().map(|&place| overall.series[place].name.as_str());
    let words = words.text(". The ranks do not tell it apart from ").names(names, NAMES);
    let fewest = fewest_tasks(overall.series.len(), ALPHA);
    if ranking.tasks < fewest {
        words.text(format!(": {} combinations cannot, {fewest} could", ranking.tasks))
    } else {
        words
    }
}

/// `, solved by 5 of 5 seeds`.
fn solved(cell: &Decision, winner: &Candidate) -> String {
    if winner.diverged > 0 {
        return format!(
            ", solved by {} of {} seeds ({} diverged)",
            winner.solved,
            winner.scores.len(),
            winner.diverged
        );
    }
    if winner.solved == 0 && cell.candidates.iter().all(|c| c.solved == 0) {
        return String::new();
    }
    format!(", solved by {} of {} seeds", winner.solved, winner.scores.len())
}

/// `[0.82..1.00]`.
pub(crate) fn ends(interval: Interval) -> String {
    format!("[{:.2}..{:.2}]", interval.low, interval.high)
}

/// `probability of improvement 0.96 [0.84..1.00]`.
fn improvement(versus: &Versus) -> String {
    let interval = versus.interval.map_or_else(String::new, |i| format!(" {}", ends(i)));
    format!("{:.2}{interval}", versus.probability)
}

fn sureness(decisions: &Decisions) -> Words {
    if decisions.cells.iter().all(|cell| !cell.learned()) {
        return Words::new();
    }
    let mut cells = learned(decisions);
    cells.retain(|cell| cell.candidates.len() > 1);
    if cells.is_empty() {
        return "There is one series only, so that nothing was compared.".into();
    }
    if let [cell] = cells[..] {
        return sureness_of(cell);
    }
    let pairs: usize = cells.iter().map(|cell| cell.rivals().count()).sum();
    let worse: usize = cells.iter().map(|c| c.rivals().filter(|(_, v)| v.worse).count()).sum();
    let equal: usize = cells.iter().map(|c| c.rivals().filter(|(_, v)| v.equal).count()).sum();
    let open = pairs - worse - equal;
    let seeds = cells.iter().map(|cell| cell.seeds()).min().unwrap_or(0);
    let with =
        |wanted: &dyn Fn(&Decision) -> bool| cells.iter().filter(|cell| wanted(cell)).count();
    let singled_out = with(&|cell| cell.standing() == Standing::SingledOut);
    let partly =
        with(&|cell| cell.standing() == Standing::Open && cell.ruled_out().next().is_some());
    let some = match partly {
        0 => String::new(),
        count => format!("; at {count} it rules some out and leaves more than one"),
    };
    let none = match cells.len() - singled_out - partly {
        0 => String::new(),
        count => format!("; at {count} it rules none out"),
    };
    let single = if singled_out == 0 { "none".to_owned() } else { singled_out.to_string() };
    let mut words = Words::from(format!(
        "The evidence singles one series out at {single} of {} tasks and lengths{some}{none}. Of {pairs} comparisons \
         with the best series there, {worse} are decided (test of rank sums, adjusted for the choice of the \
         best, p < 0.05)",
        cells.len(),
    ));
    if equal > 0 {
        words = words.text(format!(", {equal} have nothing to decide (all runs score the same)"));
    }
    if open == 0 {
        return words.text(", none is open.");
    }
    words = words.text(format!(", {open} are open"));
    let most = cells.iter().map(|cell| cell.candidates.len()).max().unwrap_or(2);
    let fewest = fewest_seeds_for(most);
    if seeds < fewest {
        let runs = if seeds == 1 { "one seed".to_owned() } else { format!("{seeds} seeds") };
        return words.text(format!(
            ": with {runs} and {most} series none can be decided, with {fewest} the first can."
        ));
    }
    // What no number of seeds would decide counts as the most.
    let mut needed: Vec<usize> = cells
        .iter()
        .flat_map(|cell| cell.open().filter(|(_, versus)| !versus.equal && !versus.by_stopping))
        .map(|(_, versus)| versus.seeds_needed.unwrap_or(usize::MAX))
        .collect();
    needed.sort_unstable();
    match needed.get(needed.len() / 2) {
        None => words.text("."),
        Some(&usize::MAX) => words.text(
            "; at the differences seen, half of them or more would take over 1,000 seeds to decide.",
        ),
        Some(&median) => words.text(format!(
            "; at the differences seen, half of them take up to {} seeds to decide (now {seeds}).",
            median.max(seeds + 1)
        )),
    }
}

fn sureness_of(cell: &Decision) -> Words {
    let name = |(candidate, _): &(&Candidate, &Versus)| candidate.series.clone();
    let worse: Vec<_> = cell.rivals().filter(|(_, versus)| versus.worse).collect();
    let equal: Vec<_> = cell.rivals().filter(|(_, versus)| versus.equal).collect();
    let open: Vec<_> = cell.open().filter(|(_, versus)| !versus.equal).collect();
    let mut words = Words::new();
    if !worse.is_empty() {
        let names: Vec<String> = worse.iter().map(name).collect();
        let least = worse.iter().min_by(|a, b| a.1.probability.total_cmp(&b.1.probability));
        words = words
            .text("The evidence separates it from ")
            .names(names.iter().map(String::as_str), NAMES)
            .text(least.map_or_else(String::new, |(_, versus)| {
                format!(" (probability of improvement at least {})", improvement(versus))
            }));
    }
    if !equal.is_empty() {
        let names: Vec<String> = equal.iter().map(name).collect();
        let start =
            if words.is_empty() { "It scores the same as " } else { "; it scores the same as " };
        words =
            words.text(start).names(names.iter().map(String::as_str), NAMES).text(" in every run");
    }
    if open.is_empty() {
        return words.text(".");
    }
    let names: Vec<String> = open.iter().map(name).collect();
    let start = match (words.is_empty(), worse.is_empty()) {
        (true, _) => "The evidence does not separate it from ",
        (false, false) => ", not from ",
        (false, true) => "; the evidence does not separate it from ",
    };
    let closest = open.iter().min_by(|a, b| a.1.probability.total_cmp(&b.1.probability));
    words = words.text(start).names(names.iter().map(String::as_str), NAMES);
    if let Some((candidate, versus)) = closest {
        words = words.text(format!(" (probability of improvement {})", improvement(versus)));
        words = words.text(more_seeds(cell, candidate, versus));
    }
    words.text(".")
}

/// `; about 7 more seeds would (now 3)`, where seeds are what is lacking.
pub(crate) fn more_seeds(cell: &Decision, other: &Candidate, versus: &Versus) -> String {
    let (now, series) = (cell.winner().scores.len(), cell.candidates.len());
    let fewest = fewest_seeds_for(series);
    let solved = |candidate: &Candidate| candidate.solved == candidate.scores.len();
    match versus.seeds_needed {
        _ if versus.equal && solved(cell.winner()) && solved(other) => {
            "; all runs of both solved it".to_owned()
        }
        _ if versus.equal => "; all runs score the same".to_owned(),
        // More seeds would tell how often that happens, and nothing of what is learned.
        _ if versus.by_stopping => {
            let missed = cell.winner().missed_on_test + other.missed_on_test;
            let runs =
                if missed == 1 { "one run that".to_owned() } else { format!("{missed} runs that") };
            format!(
                "; all that sets them apart is {runs} stopped when validation reached the threshold and \
                 missed it on the test"
            )
        }
        Some(needed) => {
            let more = needed.max(fewest).saturating_sub(now).max(1);
            let s = if more == 1 { "" } else { "s" };
            format!("; about {more} more seed{s} would (now {now})")
        }
        None if now < fewest => {
            format!("; fewer than {fewest} seeds cannot separate {series} series")
        }
        None => "; the difference seen is so small that 1,000 seeds would not".to_owned(),
    }
}

fn cost(decisions: &Decisions) -> Words {
    // The longest length of the task with most series tells most about cost.
    let hardest = |cell: &&Decision| (cell.candidates.len(), cell.length);
    let Some(cell) = learned(decisions).into_iter().rev().max_by_key(hardest) else {
        return Words::new();
    };
    let winner = cell.winner();
    let mut words = Words::new();
    let measured = match cell.speed {
        Speed::Step => "training step alone",
        Speed::Training => "by the clock while it trained",
    };
    if let Some(speed) = winner.tokens_per_s {
        words = words
            .text(format!("On {} ", place(cell)))
            .strong(&winner.series)
            .text(format!(" trained {} tokens/s ({measured})", prefixed(speed)));
        let mut named: Vec<usize> = Vec::new();
        for choice in &cell.choices {
            if named.contains(&choice.candidate) {
                continue;
            }
            named.push(choice.candidate);
            let gains: Vec<String> = cell
                .choices
                .iter()
                .filter(|other| other.candidate == choice.candidate)
                .map(|c| format!("{} {}", significant(c.factor), gain(c.objective, cell.speed)))
                .collect();
            let other = &cell.candidates[choice.candidate];
            let known = match other.versus.as_ref().is_some_and(|versus| versus.equal) {
                true => "scores the same",
                false if cell.too_few_seeds() => "is close in too few runs to tell",
                false => "is not told apart from it",
            };
            words = words
                .text("; ")
                .strong(&other.series)
                .text(format!(", which {known}, has {}", gains.join(" and ")));
        }
        match cell.standing() {
            Standing::SingledOut => words = words.text("; every other series is worse"),
            Standing::Open if cell.choices.is_empty() => {
                words = words.text(format!("; {NO_CHOICE}"));
            }
            _ => {}
        }
        return words.text(".");
    }
    Words::from("What it costs was not measured.")
}

/// Without a metric: what gradients or times say.
fn without_quality(summary: &Summary) -> Vec<Words> {
    let mut sentences = Vec::new();
    let initial = |g: &&unroll_results::summary::GradientGroup| {
        g.of == GradientOf::Input && g.moment == Moment::Initial
    };
    if let Some(length) = summary.gradients.iter().filter(initial).map(|g| g.length).max() {
        let at = || summary.gradients.iter().filter(initial).filter(|g| g.length == length);
        // The reach and not the horizon: a residual connection misleads the second.
        let mut reaching: Vec<(f64, &str)> = at()
            .filter_map(|g| {
                let reach: Vec<f64> =
                    g.over_seeds.reach.iter().flatten().map(|&distance| distance as f64).collect();
                Some((median(&reach)?, g.series.as_str()))
            })
            .collect();
        reaching.sort_by(|a, b| a.0.total_cmp(&b.0));
        let of = |reach: f64| format!(" ({} steps)", significant(reach));
        match reaching[..] {
            [(reach, series)] => sentences.push(
                Words::new()
                    .text(format!(
                        "At initialisation and length {length}, 99 % of the input's gradient lies within \
                         {} steps of the loss in ",
                        significant(reach)
                    ))
                    .strong(series)
                    .text("."),
            ),
            [first, .., last] => sentences.push(
                Words::new()
                    .text(format!(
                        "At initialisation and length {length}, 99 % of the input's gradient lies nearest \
                         to the loss in "
                    ))
                    .strong(first.1)
                    .text(format!("{} and reaches back farthest in ", of(first.0)))
                    .strong(last.1)
                    .text(format!("{}.", of(last.0))),
            ),
            [] => {}
        }
        let lasting: Vec<&str> = at()
            .filter(|g| g.over_seeds.horizon_percent.iter().all(Option::is_none))
            .map(|g| g.series.as_str())
            .collect();
        if !lasting.is_empty() {
            sentences.push(
                Words::new()
                    .text("Its norm does not fall to 1 % within that length in ")
                    .names(lasting.iter().copied(), NAMES)
                    .text("."),
            );
        }
    }
    let step = |g: &&unroll_results::summary::ThroughputGroup| g.phase == Phase::TrainStep;
    if let Some(length) = summary.throughput.iter().filter(step).map(|g| g.length).max() {
        let fastest = summary
            .throughput
            .iter()
            .filter(step)
            .filter(|g| g.length == length)
            .max_by(|a, b| a.tokens_per_s.median.total_cmp(&b.tokens_per_s.median));
        if let Some(group) = fastest {
            sentences.push(
                Words::new().text(format!("At length {length}, ")).strong(&group.series).text(
                    format!(" trains fastest: {} tokens/s.", prefixed(group.tokens_per_s.median)),
                ),
            );
        }
    }
    if summary.setting.trials == 0 {
        sentences.push("There are no results yet.".into());
    } else if summary.setting.failed == summary.setting.trials {
        sentences.push("Every trial failed: there is nothing to compare.".into());
    } else {
        sentences.push(
            "No trial measured a metric after training, so that this says nothing about which \
             architecture learns best."
                .into(),
        );
    }
    sentences
}
