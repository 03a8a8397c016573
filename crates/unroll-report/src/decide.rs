//! The section "Which should I use?" and the tables of all tasks together.

use unroll_results::decision::{
    ALPHA, Candidate, Decision, Decisions, Objective, Overall, SEEDS_FOR_INTERVALS, Versus,
    fewest_seeds_for,
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
        "For each task and length: the best series, what the evidence separates it from, and what to take \
         when something else matters most. A probability of improvement is that of a run of the best \
         series scoring above a run of the other (ties count half; beyond the task's criterion for \
         solved nothing is gained; a run that diverged scores below all others). A test of rank sums at 5 % decides, \
         which knows that the best was chosen from the same runs; with {} \
         series that takes {} seeds at the least. Intervals (95 %, bootstrap) are shown from {} seeds on. In \
         the tables, “up to” is the longest length that every seed solved, with all shorter ones; a series is not on the Pareto “front” \
         when another is nowhere worse and somewhere better in metric, length solved, tokens/s, peak memory \
         and parameters.",
        most,
        fewest_seeds_for(most),
        SEEDS_FOR_INTERVALS
    ));
    for cell in &decisions.cells {
        recommend(&mut section, cell);
    }
    Some(section)
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
    for choice in &cell.choices {
        let other = &cell.candidates[choice.candidate];
        let what = match choice.objective {
            Objective::Speed => "speed matters most",
            Objective::Memory => "memory matters most",
            _ => "parameters matter most",
        };
        let gain = gain(choice.objective);
        reasons.push(
            Words::from(format!("If {what}: ")).strong(&other.series).text(format!(
                ", {} {gain}, and not shown to be worse.",
                significant(choice.factor)
            )),
        );
    }
    // Where nothing was learned, there is nothing to choose by.
    if !reasons.is_empty() && !cell.nothing_learned {
        section.blocks.push(Block::List(reasons));
    }
    section.table(
        format!("{}, length {}: candidates and Pareto front", cell.task, cell.length),
        table(cell),
    );
}

/// `4 of 5 diverged`, if any did.
fn diverged(candidate: &Candidate) -> Option<String> {
    (candidate.diverged > 0)
        .then(|| format!("{} of {} diverged", candidate.diverged, candidate.scores.len()))
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
    let chance = cell.baseline.as_ref().filter(|baseline| {
        winner.metric.is_none_or(|metric| !cell.prefers(metric, baseline.value))
    });
    let start = match (chance, cell.undecided()) {
        (Some(_), _) => "Nothing to recommend. Ahead is ",
        (None, true) => "The evidence does not single one out. Ahead is ",
        (None, false) => "Use ",
    };
    let mut words = Words::from(start)
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
            "; as a whole no better than the baseline “{}” ({})",
            baseline.name,
            significant(baseline.value)
        ));
    }
    let level: Vec<&str> =
        cell.rivals().filter(|(_, v)| v.equal).map(|(other, _)| other.series.as_str()).collect();
    if !level.is_empty() {
        words = words
            .text("; level with ")
            .names(level, MOST)
            .text(", where speed, and then fewer parameters, put it first");
    }
    words.text(".")
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
    let mut words = Words::new().strong(&candidate.series).text(verdict).text(format!(
        "{diverged}probability of improvement {:.2}{interval}, ahead on {} of {} paired seeds",
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

/// `times the tokens/s`, after a number.
pub(crate) fn gain(objective: Objective) -> &'static str {
    match objective {
        Objective::Speed => "times the tokens/s",
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
        ("tokens/s", true),
        ("peak", true),
        ("params", true),
        ("P(best better) [95 %]", true),
        ("p", true),
        ("front", false),
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
    section.words(format!(
        "Over the {} combinations of task and length that every series has results for. Skill is 0 at the \
         best trivial baseline (or worse, or diverged) and 1 where nothing is left to gain (an error of \
         0, an accuracy of 1); its interquartile mean is over all runs of {} of them. Ranks are of \
         interquartile means; lengths of one task are no independent evidence.",
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
            format!("{}/{}", series.first, overall.cells.len()),
            series.skill.map_or_else(dash, |skill| {
                let interval =
                    series.interval.map_or_else(String::new, |i| format!(" {}", ends(i)));
                format!("{skill:.3}{interval}")
            }),
        ]);
    }
    rows
}
