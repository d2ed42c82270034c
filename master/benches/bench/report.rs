//! Figures as text.

/// The middle one of these.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a table in Markdown; `|` separates the cells of the head, and those of a line.
pub fn table(head: &str, lines: impl IntoIterator<Item = String>) {
    let lines: Vec<String> = lines.into_iter().collect();
    let cells: Vec<Vec<&str>> =
        [head].into_iter().chain(lines.iter().map(String::as_str)).map(split).collect();
    let width = |column: usize| cells.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
    for (number, line) in cells.iter().enumerate() {
        let padded = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        println!("| {} |", padded.collect::<Vec<_>>().join(" | "));
        if number == 0 {
            let dashes = widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>();
            println!("|-{}-|", dashes.join("-|-"));
        }
    }
}

fn split(line: &str) -> Vec<&str> {
    line.split('|').map(str::trim).collect()
}
