//! The report: a table, results.json, and a chart.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

/// All figures.
#[derive(Default)]
pub struct Report {
    figures: Vec<Figure>,
    /// The program that the next figures are measured on.
    on: String,
}

struct Figure {
    name: String,
    on: String,
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
    /// Sets the program that the next figures are measured on.
    pub fn measure_on(&mut self, on: &str) {
        self.on = on.into();
    }

    /// Adds a figure of one or more runs, and the maximum of its median.
    pub fn add(&mut self, name: &str, unit: &'static str, values: &[f64], budget: Option<f64>) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        self.figures.push(Figure {
            name: name.into(),
            on: self.on.clone(),
            unit,
            runs: sorted.len(),
            median: sorted[sorted.len() / 2],
            min: sorted[0],
            max: sorted[sorted.len() - 1],
            budget,
        });
    }

    /// The number of missed budgets.
    pub fn missed(&self) -> usize {
        self.figures.iter().filter(|figure| figure.is_missed()).count()
    }

    /// Prints the table on standard output.
    pub fn print(&self) {
        println!(
            "{:<52} {:>5} {:>9} {:>9} {:>9} {:>4} {:>9}  measured on",
            "", "runs", "median", "min", "max", "", "budget"
        );
        for f in &self.figures {
            let budget = f.budget.map_or(String::new(), |budget| format!("{budget:.0}"));
            let miss = if f.is_missed() { "  MISSED" } else { "" };
            let (median, min, max) = (f.median, f.min, f.max);
            println!(
                "{:<52} {:>5} {median:>9.1} {min:>9.1} {max:>9.1} {:>4} {budget:>9}  {}{miss}",
                f.name, f.runs, f.unit, f.on
            );
        }
    }

    /// Writes results.json and budget.svg to this folder.
    pub fn write(&self, folder: &str) {
        fs::create_dir_all(folder).expect("a folder");
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|f| {
                json!({"name": f.name.trim(), "measuredOn": f.on, "unit": f.unit, "runs": f.runs, "median": f.median, "min": f.min,
                    "max": f.max, "budget": f.budget})
            })
            .collect();
        let text = serde_json::to_string_pretty(&figures).expect("JSON");
        fs::write(format!("{folder}/results.json"), text + "\n").expect("a file");
        fs::write(format!("{folder}/budget.svg"), self.chart()).expect("a file");
    }

    /// A chart with a bar for each figure: its part of the budget.
    fn chart(&self) -> String {
        let bars: Vec<&Figure> = self
            .figures
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

/// The value that half of them do not exceed.
pub fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value that this part of them does not exceed.
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * part).ceil() as usize]
}
