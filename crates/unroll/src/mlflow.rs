//! Runs for an MLflow server, over its REST API: one for each trial, with its settings as parameters,
//! its numbers as metrics and the trial's id as a tag. Plain HTTP only; a trial that the experiment has
//! already (by that tag) is not sent again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use unroll_results::record::Status;
use unroll_results::{Manifest, TrialRecord};

/// Metrics of one request: the server takes no more.
const BATCH: usize = 1000;
/// How long the server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are read.
const LONGEST_ANSWER: u64 = 64 << 20;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum MlflowError {
    /// The address is no `http://host:port`.
    #[error("`{0}` is no address such as http://127.0.0.1:5000")]
    Address(String),
    /// The server cannot be reached or stops talking.
    #[error("cannot be reached: {0}")]
    Io(#[from] std::io::Error),
    /// The server refuses.
    #[error("{path}: answered {status}: {message}")]
    Refused {
        /// What was asked for.
        path: String,
        /// HTTP status.
        status: u16,
        /// Its words.
        message: String,
    },
    /// The answer is not what the API says.
    #[error("{path}: the answer has no `{field}`")]
    Answer {
        /// What was asked for.
        path: String,
        /// What is missing.
        field: &'static str,
    },
}

type Result<T> = std::result::Result<T, MlflowError>;

/// Sends the records and returns how many runs were made.
///
/// # Errors
/// [`MlflowError`].
pub fn send(url: &str, manifest: &Manifest, records: &[TrialRecord]) -> Result<usize> {
    let server = Server::new(url)?;
    let experiment = server.experiment(&manifest.experiment)?;
    let known = server.trials(&experiment)?;
    let mut sent = 0;
    for record in records.iter().filter(|record| !known.contains(&record.id)) {
        server.run(&experiment, record)?;
        sent += 1;
    }
    Ok(sent)
}

struct Server {
    /// `host:port`.
    authority: String,
    /// Path before `/api`.
    prefix: String,
}

impl Server {
    fn new(url: &str) -> Result<Self> {
        let wrong = || MlflowError::Address(url.to_owned());
        let rest = url.strip_prefix("http://").ok_or_else(wrong)?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = authority.chars().all(|c| c.is_ascii_graphic());
        if authority.is_empty() || !plain {
            return Err(wrong());
        }
        let prefix = prefix.trim_end_matches('/');
        Ok(Self {
            authority: authority.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("/{prefix}") },
        })
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let address = if self.authority.contains(':') {
            self.authority.clone()
        } else {
            format!("{}:80", self.authority)
        };
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let body = body.to_string();
        // HTTP/1.0: the answer ends where the connection does.
        let request = format!(
            "POST {}/api/2.0/mlflow/{path} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.prefix,
            self.authority,
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut reader = BufReader::new(stream.take(LONGEST_ANSWER));
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status = line.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
        }
        let mut answer = String::new();
        reader.read_to_string(&mut answer)?;
        if status != 200 {
            let value: Value = serde_json::from_str(&answer).unwrap_or_default();
            let message = value["message"].as_str().unwrap_or(&answer);
            let message = message.chars().take(200).collect();
            return Err(MlflowError::Refused { path: path.to_owned(), status, message });
        }
        Ok(serde_json::from_str(&answer).unwrap_or_default())
    }

    /// The id of the experiment with this name, which is made when there is none.
    fn experiment(&self, name: &str) -> Result<String> {
        let path = "experiments/search";
        let filter = format!("name = '{}'", name.replace('\'', "''"));
        let found = self.post(path, &json!({"filter": filter, "max_results": 1}))?;
        if let Some(id) = found["experiments"][0]["experiment_id"].as_str() {
            return Ok(id.to_owned());
        }
        let path = "experiments/create";
        let made = self.post(path, &json!({"name": name}))?;
        field(&made["experiment_id"], path, "experiment_id")
    }

    /// The trials that the experiment has runs of that ended.
    fn trials(&self, experiment: &str) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut page = Value::Null;
        loop {
            let mut request = json!({
                "experiment_ids": [experiment],
                "filter": "tags.`unroll.complete` = 'yes'",
                "max_results": 1000,
            });
            if page.is_string() {
                request["page_token"] = page;
            }
            let answer = self.post("runs/search", &request)?;
            for run in answer["runs"].as_array().into_iter().flatten() {
                let tags = run["data"]["tags"].as_array().into_iter().flatten();
                let id = tags.filter(|tag| tag["key"] == "unroll.trial");
                found.extend(id.filter_map(|tag| tag["value"].as_str().map(str::to_owned)));
            }
            page = answer["next_page_token"].clone();
            if page.as_str().is_none_or(str::is_empty) {
                return Ok(found);
            }
        }
    }

    fn run(&self, experiment: &str, record: &TrialRecord) -> Result<()> {
        let cell = &record.cell;
        let name = format!(
            "{} {} T={} seed {} {}",
            cell.series,
            cell.task,
            cell.length,
            cell.seed,
            record.kind.name()
        );
        let path = "runs/create";
        let tags = [("unroll.trial", record.id.as_str()), ("unroll.kind", record.kind.name())]
            .map(|(key, value)| json!({"key": key, "value": value}));
        let request = json!({
            "experiment_id": experiment,
            "run_name": name,
            "start_time": 0,
            "tags": tags,
        });
        let made = self.post(path, &request)?;
        let run = field(&made["run"]["info"]["run_id"], path, "run.info.run_id")?;
        let metrics = metrics(record);
        let params: Vec<Value> = params(record)
            .into_iter()
            .map(|(key, value)| json!({"key": key, "value": value}))
            .collect();
        self.post("runs/log-batch", &json!({"run_id": run, "params": params}))?;
        for batch in metrics.chunks(BATCH) {
            self.post("runs/log-batch", &json!({"run_id": run, "metrics": batch}))?;
        }
        let done = json!({"run_id": run, "key": "unroll.complete", "value": "yes"});
        self.post("runs/set-tag", &done)?;
        let status = match record.status {
            Status::Failed { .. } => "FAILED",
            Status::Finished {} | Status::Diverged { .. } => "FINISHED",
        };
        let end = (record.timing.wall_s.max(0.0) * 1000.0) as u64;
        self.post("runs/update", &json!({"run_id": run, "status": status, "end_time": end}))?;
        Ok(())
    }
}

fn field(value: &Value, path: &str, name: &'static str) -> Result<String> {
    let missing = || MlflowError::Answer { path: path.to_owned(), field: name };
    value.as_str().map(str::to_owned).ok_or_else(missing)
}

fn params(record: &TrialRecord) -> Vec<(String, String)> {
    let cell = &record.cell;
    let mut found = vec![
        ("architecture".to_owned(), cell.architecture.clone()),
        ("series".to_owned(), cell.series.clone()),
        ("task".to_owned(), cell.task.clone()),
        ("length".to_owned(), cell.length.to_string()),
        ("seed".to_owned(), cell.seed.to_string()),
        ("device".to_owned(), cell.device.clone()),
        ("dtype".to_owned(), cell.dtype.clone()),
        ("precision".to_owned(), cell.precision.clone()),
        ("hidden_size".to_owned(), cell.hidden_size.to_string()),
        ("num_layers".to_owned(), cell.num_layers.to_string()),
        ("batch_size".to_owned(), cell.batch_size.to_string()),
        ("matched_by".to_owned(), cell.matched_by.clone()),
    ];
    if let Some(cost) = &record.cost {
        found.push(("parameters".to_owned(), cost.parameters.to_string()));
    }
    found.extend(cell.axes.iter().map(|(name, value)| (key(name), value.to_string())));
    found
}

/// Metrics: numbers that are finite, as the API takes no others.
fn metrics(record: &TrialRecord) -> Vec<Value> {
    let mut found = Vec::new();
    let mut push = |name: &str, value: f64, step: u64, seconds: f64| {
        if value.is_finite() {
            let timestamp = (seconds.max(0.0) * 1000.0) as u64;
            found.push(
                json!({"key": key(name), "value": value, "timestamp": timestamp, "step": step}),
            );
        }
    };
    let metric = record.quality.as_ref().map_or("metric", |quality| quality.metric.as_str());
    for point in &record.curve {
        push("train/loss", point.train_loss, point.step, point.seconds);
        push(&format!("validation/{metric}"), point.validation, point.step, point.seconds);
        push("validation/loss", point.validation_loss, point.step, point.seconds);
        push("train/gradient norm", point.gradient_norm, point.step, point.seconds);
    }
    if let Some(quality) = &record.quality {
        push(&format!("test/{metric}"), quality.test, quality.steps, record.timing.train_s);
        push("test/solved", f64::from(u8::from(quality.solved)), quality.steps, 0.0);
    }
    for times in &record.throughput {
        let phase = times.phase.name();
        push(&format!("{phase}/tokens per s"), times.tokens_per_s, 0, 0.0);
        push(&format!("{phase}/median s"), times.median_s, 0, 0.0);
        if let Some(bytes) = times.peak_bytes {
            push(&format!("{phase}/peak bytes"), bytes as f64, 0, 0.0);
        }
    }
    found
}

/// A name as MLflow takes it: letters, digits, `_`, `-`, `.`, space and `/`.
fn key(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-. /".contains(c);
    name.chars().map(|c| if fits(c) { c } else { '_' }).take(250).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let server = Server::new("http://127.0.0.1:5000/").unwrap();
        assert_eq!((server.authority.as_str(), server.prefix.as_str()), ("127.0.0.1:5000", ""));
        assert_eq!(Server::new("http://h/mlflow/").unwrap().prefix, "/mlflow");
        for wrong in ["https://h", "h:5000", "http://", "http://a\r\nb"] {
            assert!(matches!(Server::new(wrong), Err(MlflowError::Address(_))), "{wrong}");
        }
    }

    #[test]
    fn names_are_such_as_the_server_takes() {
        assert_eq!(key("RMSE (kW)"), "RMSE _kW_");
    }
}
