//! The section "Which should I use?" and the tables of all tasks together.

use unroll_results::decision::{
    ALPHA, Candidate, Choice, Decision, Decisions, FAR_AHEAD, LEAST_SKILL, Objective, Overall,
    SEEDS_FOR_INTERVALS, Speed, Standing, Versus, fewest_seeds_for,
};
use unroll_results::statistics::ranks::fewest_tasks;

use crate::answer::{ends, more_seeds};
use crate::document::{Block, Section, Words};
use crate::rows::{Rows, bytes, dash, prefixed, significant};

/// Series that a list of reasons names.
const MOST: usize = 6;

pub(crate) fn section(decisions: &Decisions) -> Option<Section> {
    let most = decisions.cells.iter().map(|cell| cell.candidates.len()).max()?;
    let mut section = Section::new("Which should I use?");
    section.words(format!(
        "For each task and length: what the evidence rules out, and whether it singles one series out. A test \
         of rank sums at 5 % decides, which knows that the best was chosen from the same runs; with {most} \
         series that takes {} seeds at the least. “Use” is said where every other series is worse by that test. \
         Elsewhere what to take is a practical choice by cost, and no finding. It is among the series that are not \
         shown to be worse; that are better than the best trivial baseline as a whole (interquartile mean over \
         all runs) and beyond chance ({:.0} % of what there is to gain, or a sign test over the runs); and that are \
         not far behind: a probability of improvement below {FAR_AHEAD}, from where on an effect is called large.",
        fewest_seeds_for(most),
        100.0 * LEAST_SKILL,
    ));
    let speed = match (has_speed(decisions, Speed::Step), has_speed(decisions, Speed::Training)) {
        (true, false) => STEP_SPEED.to_owned(),
        (false, _) => TRAINING_SPEED.to_owned(),
        (true, true) => format!("{STEP_SPEED}; {TRAINING_SPEED}"),
    };
    section.words(format!(
        "A probability of improvement is that of a run of the best series scoring above a run of the other \
         (ties count half; beyond the task's criterion for solved nothing is gained; a run that diverged \
         scores below all others). Intervals (95 %, bootstrap) are shown from {SEEDS_FOR_INTERVALS} seeds on. In the \
         tables, “up to” is the longest length that every seed solved, with all shorter ones; {speed}. A series is on \
         the front of all criteria unless another is nowhere worse and somewhere better in those named above \
         its table; the figures of a task have fronts of two criteria each.",
    ));
    let candidates = || decisions.cells.iter().flat_map(|cell| &cell.candidates);
    if candidates().any(|candidate| candidate.missed_on_test > 0) {
        section.words(
            "“Missed on test” are runs that stopped when validation reached the threshold, and are not solved by \
             the test split: the task's section names them.",
        );
    }
    for cell in &decisions.cells {
        recommend(&mut section, cell);
    }
    Some(section)
}

const STEP_SPEED: &str =
    "“step tokens/s” is the speed of the training step alone, as throughput trials time it";
const TRAINING_SPEED: &str =
    "“run tokens/s” is the speed by the clock of whole training runs, evaluations left out";

fn has_speed(decisions: &Decisions, speed: Speed) -> bool {
    let measured = |cell: &Decision| cell.candidates.iter().any(|c| c.tokens_per_s.is_some());
    decisions.cells.iter().any(|cell| cell.speed == speed && measured(cell))
}

fn recommend(section: &mut Section, cell: &Decision) {
    section.heading(format!("{}, length {}", cell.task, cell.length));
    section.words(headline(cell));
    if let Some(words) = fitted(cell) {
        section.words(words);
    }
    let mut reasons: Vec<Words> = cell.rivals().take(MOST).map(|r| rival(cell, r)).collect();
    let others = cell.rivals().count().saturating_sub(MOST);
    if others > 0 {
        reasons.push(format!("{others} more are in the table.").into());
    }
    // Where nothing was learned, seeds would tell noise from noise.
    if !reasons.is_empty() && cell.learned() {
        section.blocks.push(Block::List(reasons));
    }
    if cell.standing() == Standing::Open {
        section.words(practical(cell));
        if !cell.choices.is_empty() {
            let choices = cell.choices.iter().map(|c| choice(cell, c)).collect();
            section.blocks.push(Block::List(choices));
        }
    }
    let criteria = criteria(cell);
    if cell.candidates.len() > 1 && !cell.objectives.is_empty() {
        section.words(format!("Front of all criteria: {criteria}."));
    }
    section.table(
        format!("{}, length {}: candidates, front of {criteria}", cell.task, cell.length),
        table(cell),
    );
}

/// What the front of the table is of: measures that all series have and that differ.
fn criteria(cell: &Decision) -> String {
    let names: Vec<&str> = cell
        .objectives
        .iter()
        .map(|objective| match (objective, cell.speed) {
            (Objective::Metric, _) if cell.solved_at.is_some() => "metric (up to solved)",
            (Objective::Speed, Speed::Step) => "step tokens/s",
            (Objective::Speed, Speed::Training) => "run tokens/s",
            (Objective::Memory, _) => "peak memory",
            (other, _) => other.name(),
        })
        .collect();
    match &names[..] {
        [] => "nothing, since no measure differs".to_owned(),
        [one] => format!("{one} alone"),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Why nothing is named for what it costs.
pub(crate) const NO_CHOICE: &str =
    "the others that are left cost hardly less, or are far behind in these runs";

/// What to take where the evidence does not say.
fn practical(cell: &Decision) -> Words {
    let start = if cell.too_few_seeds() {
        "What to take is then a guess from single runs and cost, no finding: "
    } else {
        "What to take is then a practical choice by cost, no finding: "
    };
    let words = Words::from(start).strong(&cell.winner().series);
    let first = if cell.open().any(|(_, versus)| versus.equal) { "first" } else { "ahead" };
    let words = words.text(format!(", which is {first}"));
    if cell.choices.is_empty() {
        words.text(format!("; {NO_CHOICE}."))
    } else {
        words.text(", unless")
    }
}

/// `speed matters most: lstm, 1.15 times the step tokens/s of gru, not told apart from it (5 of 6 solved, gru 6 of 6)`.
fn choice(cell: &Decision, choice: &Choice) -> Words {
    let (other, winner) = (&cell.candidates[choice.candidate], cell.winner());
    let what = match choice.objective {
        Objective::Speed => "speed matters most",
        Objective::Memory => "memory matters most",
        _ => "parameters matter most",
    };
    let words = Words::from(format!("{what}: ")).strong(&other.series).text(format!(
        ", {} {}",
        significant(choice.factor),
        gain(choice.objective, cell.speed)
    ));
    let Some(versus) = other.versus.as_ref().filter(|versus| !versus.equal) else {
        return words.text(", and scores the same in every run.");
    };
    let known = if cell.too_few_seeds() {
        ", close in the runs there are, which are too few to tell"
    } else {
        ", not told apart"
    };
    let words = words.text(known);
    if cell.candidates.iter().all(|candidate| candidate.solved == 0) {
        return words.text(format!(" (probability of improvement {:.2}).", versus.probability));
    }
    words
        .text(format!(" ({} of {} solved, ", other.solved, other.scores.len()))
        .strong(&winner.series)
        .text(format!(" {} of {}).", winner.solved, winner.scores.len()))
}

/// `4 of 5 diverged`, if any did.
fn diverged(candidate: &Candidate) -> Option<String> {
    (candidate.diverged > 0)
        .then(|| format!("{} of {} diverged", candidate.diverged, candidate.scores.len()))
}

/// How a series that has learned nothing stands to the best trivial baseline, before its name.
fn beside_chance(cell: &Decision, candidate: &Candidate) -> &'static str {
    let better = |metric: f64| {
        cell.baseline.as_ref().is_some_and(|baseline| cell.prefers(metric, baseline.value))
    };
    match candidate.metric {
        // Of the runs that did not diverge.
        Some(metric) if better(metric) && candidate.diverged == 0 => "within chance of",
        _ => "no better than",
    }
}

/// What to use, or why that cannot be said.
fn headline(cell: &Decision) -> Words {
    if cell.nothing_learned {
        return "Nothing was learned here: no run is better than the best trivial baseline. Train longer, \
                or change the setting, before choosing."
            .into();
    }
    let winner = cell.winner();
    let n = winner.scores.len();
    let metric = winner.metric.map_or_else(dash, significant);
    let interval = winner.interval.map_or_else(String::new, |interval| {
        format!(" [{}..{}]", significant(interval.low), significant(interval.high))
    });
    let runs = if n == 1 { "one seed".to_owned() } else { format!("{n} seeds") };
    // The baseline is a number of its own: a mean above it says more than single runs.
    let chance = cell.baseline.as_ref().filter(|_| !cell.learned());
    let level: Vec<&str> =
        cell.rivals().filter(|(_, v)| v.equal).map(|(other, _)| other.series.as_str()).collect();
    let mut words = match cell.standing() {
        Standing::NothingLearned => Words::from("Nothing to recommend. Ahead is "),
        Standing::Alone => Words::from("Nothing to compare: the only series is "),
        Standing::SingledOut => Words::from("Use "),
        Standing::Open => {
            open(cell).text(if level.is_empty() { ". Ahead is " } else { ". First is " })
        }
    };
    words = words
        .strong(&winner.series)
        .text(format!(": {} {metric}{interval} over {runs}", cell.metric));
    if cell.candidates.iter().any(|candidate| candidate.solved > 0) {
        words = words.text(format!(", {} of {n} solved", winner.solved));
    } else if let Some(above) = winner.above_chance {
        words = words.text(format!(", {above} of {n} better than the best trivial baseline"));
    }
    if let Some(diverged) = diverged(winner) {
        words = words.text(format!(", {diverged}"));
    }
    if let Some(baseline) = chance {
        words = words.text(format!(
            "; as a whole {} the baseline “{}” ({})",
            beside_chance(cell, winner),
            baseline.name,
            significant(baseline.value)
        ));
    }
    if !level.is_empty() {
        words = words
            .text("; level with ")
            .names(level, MOST)
            .text(", where speed, and then fewer parameters, put it first");
    }
    words.text(".")
}

/// What is known where no series is singled out.
fn open(cell: &Decision) -> Words {
    if cell.too_few_seeds() {
        let series = cell.candidates.len();
        let seeds = cell.seeds();
        let runs = if seeds == 1 { "One seed".to_owned() } else { format!("{seeds} seeds") };
        return Words::from(format!(
            "{runs} cannot single one out of {series} series, whatever {}: {} can at the least",
            if seeds == 1 { "it shows" } else { "they show" },
            fewest_seeds_for(series)
        ));
    }
    let out: Vec<&str> = cell.ruled_out().map(|(other, _)| other.series.as_str()).collect();
    if out.is_empty() {
        return "The evidence rules nothing out and does not single one out".into();
    }
    let left = cell.candidates.iter().enumerate().filter(|(place, candidate)| {
        *place == cell.best || candidate.versus.as_ref().is_some_and(|versus| !versus.worse)
    });
    Words::from("The evidence rules out ")
        .names(out, MOST)
        .text(", and does not single one out of ")
        .names(left.map(|(_, candidate)| candidate.series.as_str()), MOST)
}

/// What is fitted to the training data, and stands above the best series.
fn fitted(cell: &Decision) -> Option<Words> {
    let reference = cell.reference.as_ref()?;
    let metric = cell.winner().metric;
    let above = metric.is_none_or(|metric| cell.prefers(reference.value, metric));
    above.then(|| {
        format!(
            "{} reaches {}, which no series does here on the whole.",
            capital(&reference.name),
            significant(reference.value)
        )
        .into()
    })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn rival(cell: &Decision, (candidate, versus): (&Candidate, &Versus)) -> Words {
    let interval = versus.interval.map_or_else(String::new, |i| format!(" {}", ends(i)));
    let verdict = match (versus.worse, versus.equal) {
        (true, _) => " is worse: ",
        (_, true) => " is as good: ",
        _ => " is not separated from it: ",
    };
    let diverged = diverged(candidate).map_or_else(String::new, |text| text + ", ");
    let chance = if candidate.learned == Some(false) && cell.learned() {
        format!("as a whole {} the best trivial baseline, ", beside_chance(cell, candidate))
    } else {
        String::new()
    };
    let mut words = Words::new().strong(&candidate.series).text(verdict).text(format!(
        "{diverged}{chance}probability of improvement {:.2}{interval}, ahead on {} of {} paired seeds",
        versus.probability, versus.paired.wins, versus.paired.n
    ));
    if !versus.equal {
        words = words.text(format!(", p = {}", significant(versus.p)));
    }
    if !versus.worse {
        words = words.text(more_seeds(cell, candidate, versus));
    }
    words.text(".")
}

/// `times the step tokens/s`, after a number.
pub(crate) fn gain(objective: Objective, speed: Speed) -> &'static str {
    match objective {
        Objective::Speed if speed == Speed::Step => "times the step tokens/s",
        Objective::Speed => "times the run tokens/s",
        Objective::Parameters => "times fewer parameters",
        Objective::Memory => "times less memory",
        Objective::Metric | Objective::Length => "times as good",
    }
}

fn table(cell: &Decision) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("metric (IQM) [95 %]", true),
        ("solved", true),
        ("up to", true),
        (
            match cell.speed {
                Speed::Step => "step tokens/s",
                Speed::Training => "run tokens/s",
            },
            true,
        ),
        ("peak", true),
        ("params", true),
        ("P(best better) [95 %]", true),
        ("p", true),
        ("on the front of all", false),
    ]);
    for (place, candidate) in cell.candidates.iter().enumerate() {
        let versus = candidate.versus.as_ref();
        rows.rows.push(vec![
            candidate.series.clone(),
            candidate.metric.map_or_else(dash, |metric| {
                let interval = candidate.interval.map_or_else(String::new, |interval| {
                    format!(" [{}..{}]", significant(interval.low), significant(interval.high))
                });
                significant(metric) + &interval
            }),
            solved(cell, candidate),
            candidate.longest_solved.map_or_else(dash, |length| length.to_string()),
            candidate.tokens_per_s.map_or_else(dash, prefixed),
            candidate.peak_bytes.map_or_else(dash, bytes),
            candidate.parameters.map_or_else(dash, |count| prefixed(count as f64)),
            match versus {
                _ if place == cell.best => "best".to_owned(),
                None => dash(),
                Some(versus) => {
                    let interval =
                        versus.interval.map_or_else(String::new, |i| format!(" {}", ends(i)));
                    format!("{:.2}{interval}", versus.probability)
                }
            },
            versus.map_or_else(dash, |versus| significant(versus.p)),
            match &candidate.dominated_by {
                _ if candidate.metric.is_none() => "no: diverged".to_owned(),
                None => "yes".to_owned(),
                Some(other) => format!("no: {other}"),
            },
        ]);
    }
    rows
}

/// `4/5`, and what else has to be said.
fn solved(cell: &Decision, candidate: &Candidate) -> String {
    let solved = match cell.solved_at {
        Some(_) => format!("{}/{}", candidate.solved, candidate.scores.len()),
        None => dash(),
    };
    let solved = match candidate.missed_on_test {
        0 => solved,
        count => format!("{solved}, {count} missed on test"),
    };
    match candidate.diverged {
        0 => solved,
        count => format!("{solved}, {count} diverged"),
    }
}

/// All tasks and lengths together.
pub(crate) fn overall(decisions: &Decisions) -> Option<Section> {
    let overall = decisions.overall.as_ref()?;
    let mut section = Section::new("All tasks together");
    let seeds = decisions.cells.iter().map(Decision::seeds).min().unwrap_or(0);
    let left_out = match overall.cells.len() - overall.learned {
        0 => String::new(),
        count => format!(
            " and leave out the {count} in which no series is better than the best trivial baseline as a \
             whole and beyond chance, as “unbeaten” does, which counts where no other series has a higher one"
        ),
    };
    section.words(format!(
        "Over the {} combinations of task and length that every series has results for. Skill is 0 at the \
         best trivial baseline (or worse, or diverged) and 1 where nothing is left to gain (an error of \
         0, an accuracy of 1); its interquartile mean is over all runs of {} of them. Ranks are of \
         interquartile means{left_out}; lengths of one task are no independent evidence.",
        overall.cells.len(),
        overall.skill_cells
    ));
    if seeds < SEEDS_FOR_INTERVALS {
        let runs =
            if seeds == 1 { "one seed has".to_owned() } else { format!("{seeds} seeds have") };
        section.words(format!(
            "Intervals are hidden: {runs} too few different resamples ({SEEDS_FOR_INTERVALS} are needed)."
        ));
    }
    section.table("Series over all tasks and lengths", overall_rows(overall));
    if let Some(ranking) = &overall.ranking {
        let different = ranking.pairs.iter().filter(|(.., p)| *p < ALPHA).count();
        let friedman = ranking.friedman.map_or_else(String::new, |p| {
            format!(" Friedman's test that all series are alike has p = {}.", significant(p))
        });
        let fewest = fewest_tasks(overall.series.len(), ALPHA);
        let few = if ranking.tasks < fewest {
            format!(
                " With fewer than {fewest} combinations no pair of {} series can be told apart.",
                overall.series.len()
            )
        } else {
            String::new()
        };
        section.words(format!(
            "{different} of {} pairs differ (Wilcoxon signed-rank tests over {} combinations, \
             Holm-adjusted, 5 %).{friedman}{few}",
            ranking.pairs.len(),
            ranking.tasks
        ));
    }
    Some(section)
}

fn overall_rows(overall: &Overall) -> Rows {
    let mut rows = Rows::new(&[
        ("series", false),
        ("average rank", true),
        ("unbeaten in", true),
        ("skill (IQM) [95 %]", true),
    ]);
    for place in overall.order() {
        let series = &overall.series[place];
        let rank = overall.ranking.as_ref().map(|ranking| ranking.average[place]);
        rows.rows.push(vec![
            series.name.clone(),
            rank.map_or_else(dash, |rank| format!("{rank:.2}")),
            format!("{}/{}", series.first, overall.learned),
            series.skill.map_or_else(dash, |skill| {
                let interval =
                    series.interval.map_or_else(String::new, |i| format!(" {}", ends(i)));
                format!("{skill:.3}{interval}")
            }),
        ]);
    }
    rows
}
