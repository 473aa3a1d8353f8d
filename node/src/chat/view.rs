//! Draws the model. It decides nothing; the one thing that it leaves behind is where which line stood, for scrolling.

use flotilla_proto::ids::{ConvId, ConvKind, Seq, TsMs, UserId};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::command;
use super::model::{Focus, Link, Model, Tag};
use super::room::{Item, Older, Room, Shown, Tick};
use super::wrap::{fit, width, wrap};

/// From here on the list stands beside the conversation.
const WIDE: u16 = 72;
const LIST_WIDTH: u16 = 26;
/// Messages that wait stand below all entries.
const WAITING: Seq = Seq(u64::MAX);

/// In front of what a blocked person writes in a group.
const BLOCKED: char = '×';

const DIM: Style = Style::new().fg(Color::DarkGray);
const STRONG: Style = Style::new().add_modifier(Modifier::BOLD);

pub fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let [body, status] = Layout::vertical([Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    draw_status(frame, model, status);
    if frame.area().width >= WIDE {
        let [list, talk] = Layout::horizontal([Constraint::Length(LIST_WIDTH), Constraint::Min(0)]).areas(body);
        draw_list(frame, model, list);
        draw_talk(frame, model, talk);
    } else if model.focus == Focus::List {
        draw_list(frame, model, body);
    } else {
        draw_talk(frame, model, body);
    }
    if model.help {
        draw_help(frame);
    }
}

fn draw_status(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let (text, style) = match &model.link {
        Link::Up(node) if model.caught_up => (format!("● {} on {node}", model.me), Style::new().fg(Color::Green)),
        Link::Up(node) => (format!("◐ {} on {node}, catching up", model.me), Style::new().fg(Color::Yellow)),
        Link::Connecting => (format!("○ {}, connecting…", model.me), Style::new().fg(Color::Yellow)),
        Link::Lost(why) => {
            (format!("○ reconnecting, what you type is kept ({why})"), Style::new().fg(Color::Black).bg(Color::Yellow))
        }
        Link::Stopped(why) => (format!("✖ closed: {why}"), Style::new().fg(Color::White).bg(Color::Red)),
    };
    let unsent = if model.unanswered > 0 { format!(" · {} unanswered", model.unanswered) } else { String::new() };
    let hint = " F1 help ";
    let room = usize::from(area.width).saturating_sub(width(hint));
    let left = fit(&format!("{text}{unsent}"), room);
    let pad = " ".repeat(room.saturating_sub(width(&left)));
    let line = Line::from(vec![Span::styled(left, style), Span::raw(pad), Span::styled(hint, DIM)]);
    frame.render_widget(Paragraph::new(line), area);
}

// The list.

fn draw_list(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let focused = model.focus == Focus::List;
    let block = Block::new().borders(Borders::RIGHT).border_style(DIM);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let title = if focused { "▸ conversations" } else { "  conversations" };
    let order = model.order();
    let rows = usize::from(inner.height.saturating_sub(1)) / 2;
    let at = order.iter().position(|c| model.open.as_ref() == Some(*c)).unwrap_or(0);
    let first = at.saturating_sub(rows.saturating_sub(1));
    let mut lines = vec![Line::styled(fit(title, inner.width.into()), STRONG)];
    for conv in order.into_iter().skip(first).take(rows) {
        lines.extend(list_rows(model, conv, inner.width.into()));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

fn presence_mark(model: &Model, conv: &ConvId) -> Span<'static> {
    match conv.peer_of(&model.me) {
        None if conv.kind() == ConvKind::Channel => Span::styled("» ", DIM),
        None => Span::styled("# ", DIM),
        Some(peer) => match model.presence.get(&peer).map(String::as_str) {
            Some("online") => Span::styled("● ", Style::new().fg(Color::Green)),
            Some("offline") => Span::styled("○ ", DIM),
            _ => Span::raw("  "),
        },
    }
}

fn list_rows(model: &Model, conv: &ConvId, room_for: usize) -> [Line<'static>; 2] {
    let open = model.open.as_ref() == Some(conv);
    let Some(room) = model.rooms.get(conv) else { return [Line::default(), Line::default()] };
    let mut badge = if room.unread > 0 { format!(" {}", count(room.unread)) } else { String::new() };
    if room.mentions > 0 {
        badge.insert_str(0, &format!(" @{}", count(room.mentions)));
    }
    let pin = if room.pinned { "^" } else { "" };
    let name_width = room_for.saturating_sub(2 + width(&badge) + width(pin) + 1);
    let name = fit(&model.title(conv), name_width);
    let pad = " ".repeat(name_width.saturating_sub(width(&name)));
    let mut style = if room.unread > 0 { STRONG } else { Style::new() };
    if open {
        style = style.add_modifier(Modifier::REVERSED);
    }
    let badge = Span::styled(badge, Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD));
    let head = vec![presence_mark(model, conv), Span::styled(format!("{pin}{name}{pad}"), style), badge];
    let typing = !model.typists(conv).is_empty();
    let below = match &room.preview {
        _ if typing => "typing…".to_owned(),
        Some((from, _)) if hides(model, conv, from) => "(blocked)".to_owned(),
        Some((_, text)) => text.clone(),
        None => String::new(),
    };
    [Line::from(head), Line::styled(format!("  {}", fit(&below, room_for.saturating_sub(3))), DIM)]
}

fn hides(model: &Model, conv: &ConvId, from: &UserId) -> bool {
    !model.shows_blocked && model.is_blocked(conv, from)
}

fn count(n: u64) -> String {
    if n > 99 { "99+".to_owned() } else { n.to_string() }
}

// The conversation.

fn draw_talk(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    let [title, body, above, input] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1), Constraint::Length(1)])
            .areas(area);
    frame.render_widget(Paragraph::new(title_line(model, title.width.into())), title);
    draw_lines(frame, model, body);
    frame.render_widget(Paragraph::new(above_line(model, above.width.into())), above);
    draw_input(frame, model, input);
}

fn title_line(model: &Model, room_for: usize) -> Line<'static> {
    let Some(conv) = &model.open else { return Line::styled("no conversation is open", DIM) };
    let room = model.rooms.get(conv);
    let silent = if model.why_silent(conv).is_some() { ", you read only" } else { "" };
    let more = match (conv.peer_of(&model.me), room) {
        (_, Some(room)) if room.gone => "you are not a member".to_owned(),
        (Some(peer), _) if model.blocked.contains(&peer) => "blocked by you".to_owned(),
        (Some(peer), _) => model.presence.get(&peer).cloned().unwrap_or_default(),
        (None, Some(Room { members: Some(n), .. })) => format!("{n} members{silent}"),
        _ => String::new(),
    };
    let title = fit(&model.title(conv), room_for.saturating_sub(width(&more) + 4));
    Line::from(vec![presence_mark(model, conv), Span::styled(title, STRONG), Span::styled(format!("  {more}"), DIM)])
}

/// Between the conversation and the input: a notice, who types, or that newer lines are below.
fn above_line(model: &Model, room_for: usize) -> Line<'static> {
    if let Some(notice) = &model.notice {
        return Line::styled(fit(notice, room_for), Style::new().fg(Color::Yellow));
    }
    let typists = model.open.as_ref().map(|c| model.typists(c)).unwrap_or_default();
    if let Some(first) = typists.first() {
        let text =
            if typists.len() == 1 { format!("{first} is typing…") } else { "several are typing…".to_owned() };
        return Line::styled(fit(&text, room_for), DIM);
    }
    match model.anchor {
        Some(_) => Line::styled(fit("── older; PgDn or End for the newest ──", room_for), DIM),
        None => Line::styled("─".repeat(room_for), DIM),
    }
}

fn draw_input(frame: &mut Frame<'_>, model: &Model, area: Rect) {
    let before = model.input.before();
    let room_for = usize::from(area.width).saturating_sub(3);
    // The cursor stays in sight: what is left of it goes out of the picture first.
    let mut skip = 0;
    let chars: Vec<char> = before.chars().collect();
    while width(&chars[skip..].iter().collect::<String>()) > room_for {
        skip += 1;
    }
    let shown: String = model.input.text().chars().skip(skip).collect();
    let column = width(&chars[skip..].iter().collect::<String>());
    let prompt = if model.focus == Focus::Input { "› " } else { "  " };
    let line = match model.open.as_ref().and_then(|conv| model.why_silent(conv)) {
        // Commands can be typed there all the same.
        Some(why) if shown.is_empty() => {
            Line::from(vec![Span::styled(prompt, STRONG), Span::styled(fit(why, room_for), DIM)])
        }
        _ => Line::from(vec![Span::styled(prompt, STRONG), Span::raw(fit(&shown, room_for + 1))]),
    };
    frame.render_widget(Paragraph::new(line), area);
    if model.focus == Focus::Input && !model.help {
        let column = u16::try_from(column).unwrap_or(u16::MAX).saturating_add(2);
        frame.set_cursor_position(Position::new(area.x.saturating_add(column), area.y));
    }
}

type Tagged = (Tag, Line<'static>);

fn draw_lines(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    let lines = match model.open.as_ref().and_then(|conv| Some((conv, model.rooms.get(conv)?))) {
        Some((conv, room)) => lines_of(model, conv, room, area.width.into()),
        None => Vec::new(),
    };
    let height = usize::from(area.height);
    let last = lines.len().saturating_sub(1);
    let bottom = match model.anchor {
        Some(tag) => lines.iter().rposition(|(t, _)| *t <= tag).unwrap_or(last),
        None => last,
    };
    let top = (bottom + 1).saturating_sub(height);
    let shown: Vec<Line<'static>> = lines.iter().skip(top).take(height).map(|(_, line)| line.clone()).collect();
    // The newest stand at the bottom, also where there are few.
    let empty = height.saturating_sub(shown.len());
    let mut text = vec![Line::default(); empty];
    text.extend(shown);
    frame.render_widget(Paragraph::new(Text::from(text)), area);
    (model.height, model.lines) = (height, lines.into_iter().map(|(tag, _)| tag).collect());
}

fn lines_of(model: &Model, conv: &ConvId, room: &Room, room_for: usize) -> Vec<Tagged> {
    let mut lines = vec![((Seq(0), 0), Line::styled(fit(above(room), room_for), DIM))];
    let mut day = None;
    let mut gaps = room.gaps.iter().peekable();
    for item in room.items.values() {
        while let Some((from, to)) = gaps.next_if(|(from, _)| **from < item.seq) {
            lines.push(((*from, 0), Line::styled(fit(&format!("── {from} to {to} are gone ──"), room_for), DIM)));
        }
        let mut tags = 0;
        let mut push = |line: Line<'static>| {
            lines.push(((item.seq, tags), line));
            tags += 1;
        };
        if day.replace(day_of(item.ts)) != Some(day_of(item.ts)) {
            push(Line::styled(fit(&format!("── {} ──", date(item.ts)), room_for), DIM));
        }
        item_lines(model, conv, room, item, room_for).into_iter().for_each(&mut push);
    }
    for (at, waiting) in room.waiting.iter().enumerate() {
        let mark = match &waiting.failed {
            None => Span::styled(" …", DIM),
            Some(why) => Span::styled(format!(" ✖ {why}"), Style::new().fg(Color::Red)),
        };
        let head = Span::styled(format!("  --:-- {}: ", model.me), DIM);
        let base = u16::try_from(at).unwrap_or(u16::MAX).saturating_mul(256);
        for (n, line) in paragraph(head, &waiting.text, vec![mark], room_for).into_iter().enumerate() {
            lines.push(((WAITING, base.saturating_add(u16::try_from(n).unwrap_or(u16::MAX))), line));
        }
    }
    lines
}

fn above(room: &Room) -> &'static str {
    match room.older {
        Older::Unasked => "",
        Older::Loading => "── loading… ──",
        Older::More => "── PgUp for older ──",
        Older::End => "── the beginning ──",
    }
}

fn item_lines(model: &Model, conv: &ConvId, room: &Room, item: &Item, room_for: usize) -> Vec<Line<'static>> {
    let patch = room.patches.get(&item.seq);
    let mine = item.from == model.me;
    let names_me = !mine && item.mentions.contains(&model.me);
    let blocked = model.is_blocked(conv, &item.from);
    let (mark, who) = match (mine, names_me) {
        (true, _) => (' ', Style::new().fg(Color::Cyan)),
        _ if blocked => (BLOCKED, DIM),
        (_, true) => ('@', Style::new().fg(Color::Yellow).add_modifier(Modifier::BOLD)),
        _ => (' ', Style::new().fg(Color::Green)),
    };
    let head = Span::styled(format!("{mark} {} {}: ", time(item.ts), item.from), who);
    let is_event = matches!(item.what, Shown::Event(_));
    if !is_event && hides(model, conv, &item.from) {
        return paragraph(head, "(you have blocked this person; /blocked shows it)", Vec::new(), room_for);
    }
    let mut marks = Vec::new();
    let text = match (&item.what, patch) {
        (Shown::Event(event), _) => {
            let text = format!("  {} {} {event}", time(item.ts), item.from);
            return wrap(&text, room_for).into_iter().map(|l| Line::styled(l, DIM)).collect();
        }
        (Shown::Deleted, _) => "(deleted)".to_owned(),
        (_, Some(patch)) if patch.deleted => "(deleted)".to_owned(),
        (_, Some(patch)) if patch.edit.is_some() => {
            marks.push(Span::styled(" (edited)", DIM));
            patch.edit.as_ref().map(|(_, text)| text.clone()).unwrap_or_default()
        }
        (Shown::Text(text), _) => text.clone(),
        (Shown::Opaque, _) => "(no text)".to_owned(),
    };
    if let Some(patch) = patch {
        let set = patch.reactions.iter().filter(|(_, (_, on))| *on).map(|((emoji, _), _)| emoji.as_str());
        let set: String = set.collect();
        if !set.is_empty() {
            marks.push(Span::raw(format!(" [{set}]")));
        }
    }
    if mine {
        marks.push(tick(room, item));
    }
    paragraph(head, &text, marks, room_for)
}

/// The newest of one's own messages has a count where some of a group have read it, and not all.
fn tick(room: &Room, item: &Item) -> Span<'static> {
    let mark = match room.tick(item.seq) {
        Tick::Sent => " ✓",
        Tick::Delivered => " ✓✓",
        Tick::Read => return Span::styled(" ✓✓ read", Style::new().fg(Color::Cyan)),
    };
    match room.readers(item.seq) {
        (some, all) if some > 0 && room.newest_of(&item.from) == Some(item.seq) => {
            Span::styled(format!("{mark} read by {some} of {all}"), DIM)
        }
        _ => Span::styled(mark, DIM),
    }
}

/// The text behind its head, later lines indented, marks at the end.
fn paragraph(head: Span<'static>, text: &str, marks: Vec<Span<'static>>, room_for: usize) -> Vec<Line<'static>> {
    let indent = width(&head.content).min(room_for / 2);
    let marks_width: usize = marks.iter().map(|m| width(&m.content)).sum();
    let first = room_for.saturating_sub(indent).max(1);
    let mut lines = Vec::new();
    let mut rows = wrap(text, first);
    if rows.last().is_some_and(|row| width(row) + marks_width > first) {
        rows.push(String::new());
    }
    let last = rows.len().saturating_sub(1);
    for (at, row) in rows.into_iter().enumerate() {
        let lead =
            if at == 0 { Span::styled(fit(&head.content, indent), head.style) } else { Span::raw(" ".repeat(indent)) };
        let mut spans = vec![lead, Span::raw(row)];
        if at == last {
            spans.extend(marks.iter().cloned());
        }
        lines.push(Line::from(spans));
    }
    lines
}

// Times. A terminal does not tell its zone; all are UTC, and the help says so.

const DAY_MS: u64 = 86_400_000;

fn day_of(ts: TsMs) -> u64 {
    ts.0 / DAY_MS
}

fn time(ts: TsMs) -> String {
    let minutes = ts.0 % DAY_MS / 60_000;
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

/// Days to a date: Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
fn date(ts: TsMs) -> String {
    let z = day_of(ts) + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

const KEYS: [(&str, &str); 9] = [
    ("Enter", "send, or open the conversation"),
    ("Tab", "from the list to the line and back"),
    ("Ctrl-N Ctrl-P", "next, previous conversation"),
    ("PgUp PgDn", "scroll a page; Up and Down a line"),
    ("Ctrl-End", "to the newest"),
    ("Ctrl-W U K", "cut a word, to the start, to the end"),
    ("Ctrl-L", "draw anew"),
    ("Ctrl-C", "leave; what was not sent is sent next time"),
    ("✓ ✓✓ ✓✓ read", "accepted, delivered, read (by all); … on its way"),
];

fn draw_help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let rows: Vec<Line<'static>> = KEYS
        .iter()
        .chain(command::HELP.iter())
        .map(|(key, what)| Line::from(vec![Span::styled(format!(" {key:<20} "), STRONG), Span::raw(*what)]))
        .chain([Line::styled(" times are UTC; any key closes this page", DIM)])
        .collect();
    let height = u16::try_from(rows.len() + 2).unwrap_or(u16::MAX).min(area.height);
    let wide = 70.min(area.width);
    let place = Rect::new((area.width - wide) / 2, (area.height - height) / 2, wide, height);
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(rows).block(Block::bordered().title(" help ")), place);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_times_are_those_of_the_calendar() {
        assert_eq!(date(TsMs(0)), "1970-01-01");
        assert_eq!(date(TsMs(951_782_400_000)), "2000-02-29");
        assert_eq!(
            (date(TsMs(1_795_305_599_000)), time(TsMs(1_795_305_599_000))),
            ("2026-11-21".into(), "23:59".into())
        );
    }
}
