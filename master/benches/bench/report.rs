//! Figures as text.

/// The middle one of these.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Prints a table in Markdown.
pub fn table(head: &[&str], lines: impl IntoIterator<Item = Vec<String>>) {
    let head = head.iter().map(ToString::to_string).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> = [vec![head], lines.into_iter().collect()].concat();
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    for (number, line) in lines.iter().enumerate() {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        println!("| {} |", cells.join(" | "));
        if number == 0 {
            let dashes: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            println!("|-{}-|", dashes.join("-|-"));
        }
    }
}
