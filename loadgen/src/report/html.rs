//! One page with charts that needs nothing but itself.

use serde_json::json;

use super::{Report, figures};

const PAGE: &str = include_str!("page.html");

pub fn page(report: &Report) -> anyhow::Result<String> {
    let measured = figures::kinds().filter_map(|kind| {
        let value = kind.value(report).filter(|value| value.is_finite())?;
        Some(json!({"name": kind.name, "unit": kind.unit.name(), "value": value}))
    });
    let figures = inline(&json!(measured.collect::<Vec<_>>()));
    let report = inline(&serde_json::to_value(report)?);
    Ok(PAGE.replacen("/*REPORT*/null", &report, 1).replacen("/*FIGURES*/[]", &figures, 1))
}

/// JSON inside a script element: nothing in it may end the element.
fn inline(value: &serde_json::Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_carries_its_report_and_nothing_in_it_ends_the_script() {
        let report = Report { workload: "</script><b>".into(), ..Report::default() };
        let page = page(&report).expect("a page");
        assert!(page.contains(r#""workload":"\u003c/script>\u003cb>""#));
        assert!(!page.contains("/*REPORT*/") && !page.contains("/*FIGURES*/"));
        assert_eq!(page.matches("</script>").count(), 1);
        assert!(
            !page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org").count()
        );
    }
}
