//! A run as one page for a browser: lanes over simulated time, and the text trace below. Needs no network.
//!
//! - `story` what the page shows, gathered from trace and history · `page.html`, `page.css`, `page.js` how it shows it

mod story;

use crate::run::Run;
use story::Story;

/// The whole page. `again` is the command that gives this run.
pub fn html(run: &Run, again: &str) -> String {
    let story = Story::of(run, again);
    // Text of a run must not be able to end the element that holds it.
    let data = serde_json::to_string(&story).unwrap_or_else(|e| format!("\"{e}\"")).replace("</", "<\\/");
    let page = include_str!("page.html");
    let parts = [("/*CSS*/", include_str!("page.css")), ("/*DATA*/", &data), ("/*JS*/", include_str!("page.js"))];
    let mut html = String::with_capacity(data.len() + 65_536);
    let mut rest = page;
    // In the order of the page, so that nothing inside a part is taken for a mark.
    for (mark, part) in parts {
        let (before, after) = rest.split_once(mark).expect("the page has every mark, in this order");
        html += before;
        html += part;
        rest = after;
    }
    html + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Outcome;
    use crate::options::Options;
    use crate::report::Summary;
    use crate::trace::Trace;

    #[test]
    fn a_page_is_whole_and_text_cannot_leave_its_place() {
        let trace = Trace::default();
        trace.say("node1      says </script><b> /*JS*/");
        let summary = Summary::new(Options::default(), Outcome::Violated(vec!["I4 order: 3 after 5".into()]));
        let run = Run { trace, records: Vec::new(), origin: Default::default(), summary };
        let html = html(&run, "--seed 7");
        assert!(html.contains("I4 order: 3 after 5") && html.contains("says <\\/script><b> /*JS*/"));
        assert_eq!(html.matches("</script>").count(), 2);
        assert!(!html.contains("http://") && !html.contains("https://"), "nothing is loaded");
    }
}
