//! The table, results.json, and the chart.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

/// All figures.
#[derive(Default)]
pub struct Report(Vec<Figure>);

struct Figure {
    name: String,
    unit: &'static str,
    runs: usize,
    median: f64,
    min: f64,
    max: f64,
    budget: Option<f64>,
}

impl Figure {
    fn is_missed(&self) -> bool {
        self.budget.is_some_and(|budget| self.median > budget)
    }
}

impl Report {
    /// A figure of one or more runs, and what its median may be at the most.
    pub fn add(&mut self, name: &str, unit: &'static str, values: &[f64], budget: Option<f64>) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        self.0.push(Figure {
            name: name.into(),
            unit,
            runs: sorted.len(),
            median: sorted[sorted.len() / 2],
            min: sorted[0],
            max: sorted[sorted.len() - 1],
            budget,
        });
    }

    /// How many budgets are missed.
    pub fn missed(&self) -> usize {
        self.0.iter().filter(|figure| figure.is_missed()).count()
    }

    /// The table on standard output.
    pub fn print(&self) {
        println!(
            "{:<48} {:>5} {:>11} {:>11} {:>11} {:>5} {:>11}",
            "", "runs", "median", "min", "max", "", "budget"
        );
        for f in &self.0 {
            let budget = f.budget.map_or(String::new(), |budget| format!("{budget:.0}"));
            let miss = if f.is_missed() { "  MISSED" } else { "" };
            let (median, min, max) = (f.median, f.min, f.max);
            println!(
                "{:<48} {:>5} {median:>11.1} {min:>11.1} {max:>11.1} {:>5} {budget:>11}{miss}",
                f.name, f.runs, f.unit
            );
        }
    }

    /// results.json and budget.svg in this folder.
    pub fn write(&self, folder: &str) {
        fs::create_dir_all(folder).expect("a folder");
        let figures: Vec<Value> = self
            .0
            .iter()
            .map(|f| {
                json!({"name": f.name.trim(), "unit": f.unit, "runs": f.runs, "median": f.median, "min": f.min,
                    "max": f.max, "budget": f.budget})
            })
            .collect();
        let text = serde_json::to_string_pretty(&figures).expect("JSON");
        fs::write(format!("{folder}/results.json"), text + "\n").expect("a file");
        fs::write(format!("{folder}/budget.svg"), self.chart()).expect("a file");
    }

    /// Bars: how much of its budget each figure takes.
    fn chart(&self) -> String {
        let bars: Vec<&Figure> = self
            .0
            .iter()
            .filter(|f| f.budget.is_some_and(|budget| budget > 0.0))
            .collect();
        let height = bars.len() * 24 + 40;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"760\" height=\"{height}\" fill=\"#fff\"/>\n\
             <text x=\"340\" y=\"18\" fill=\"#444\">part of the budget (line: all of it)</text>\n"
        );
        for (at, figure) in bars.iter().enumerate() {
            let part = figure.median / figure.budget.unwrap_or(f64::INFINITY);
            let (y, width) = (30 + at * 24, (part * 300.0).min(400.0));
            let colour = if part > 1.0 { "#c0392b" } else { "#2e86c1" };
            let (name, text_y) = (figure.name.trim(), y + 13);
            // Writing to a String does not fail.
            let _ = writeln!(
                svg,
                "<text x=\"332\" y=\"{text_y}\" text-anchor=\"end\" fill=\"#222\">{name}</text>\
                 <rect x=\"340\" y=\"{y}\" width=\"{width:.0}\" height=\"16\" fill=\"{colour}\"/>\
                 <text x=\"{:.0}\" y=\"{text_y}\" fill=\"#222\">{:.0} %</text>",
                346.0 + width,
                part * 100.0
            );
        }
        svg + &format!("<line x1=\"640\" x2=\"640\" y1=\"26\" y2=\"{height}\" stroke=\"#888\"/>\n</svg>\n")
    }
}
