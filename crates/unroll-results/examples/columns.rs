//! Prints `results/README.md`:
//! `cargo run -p unroll-results --example columns > results/README.md`.

fn main() {
    print!("{}", unroll_results::columns::readme());
}
