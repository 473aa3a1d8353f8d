//! What a key does.

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Action, Focus, Model};

pub fn on_terminal(model: &mut Model, event: Event) -> Vec<Action> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => on_key(model, key),
        Event::Paste(text) => {
            // A message has one line here.
            text.chars().for_each(|c| model.input.insert(if c == '\n' || c == '\r' { ' ' } else { c }));
            model.focus = Focus::Input;
            model.typed()
        }
        _ => Vec::new(),
    }
}

fn on_key(model: &mut Model, key: KeyEvent) -> Vec<Action> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    if control && matches!(key.code, KeyCode::Char('c' | 'q')) {
        return vec![Action::Quit];
    }
    if std::mem::take(&mut model.help) {
        return Vec::new();
    }
    let page = isize::try_from(model.height.saturating_sub(1).max(1)).unwrap_or(1);
    match key.code {
        KeyCode::F(1) => {
            model.help = true;
            Vec::new()
        }
        KeyCode::Char('n') if control => model.step(true),
        KeyCode::Char('p') if control => model.step(false),
        KeyCode::Char('l') if control => vec![Action::Redraw],
        KeyCode::PageUp => model.scroll(-page),
        KeyCode::PageDown => model.scroll(page),
        KeyCode::End if control || model.input.is_empty() => model.scroll(isize::MAX / 2),
        KeyCode::Home if control => model.scroll(isize::MIN / 2),
        KeyCode::Tab => focus(model),
        _ => match model.focus {
            Focus::List => on_list_key(model, key, control),
            Focus::Input => on_input_key(model, key, control),
        },
    }
}

fn focus(model: &mut Model) -> Vec<Action> {
    if model.focus == Focus::Input {
        model.focus = Focus::List;
        return Vec::new();
    }
    into_open(model)
}

fn into_open(model: &mut Model) -> Vec<Action> {
    match model.open.clone() {
        Some(conv) => model.enter(conv),
        None => {
            model.focus = Focus::Input;
            Vec::new()
        }
    }
}

fn on_list_key(model: &mut Model, key: KeyEvent, control: bool) -> Vec<Action> {
    match key.code {
        KeyCode::Up | KeyCode::Char('k') => model.step(false),
        KeyCode::Down | KeyCode::Char('j') => model.step(true),
        KeyCode::Enter | KeyCode::Right => into_open(model),
        KeyCode::Char('?') => {
            model.help = true;
            Vec::new()
        }
        // Who begins to type wants the line.
        KeyCode::Char(c) if !control => {
            let mut actions = into_open(model);
            model.input.insert(c);
            actions.extend(model.typed());
            actions
        }
        _ => Vec::new(),
    }
}

fn on_input_key(model: &mut Model, key: KeyEvent, control: bool) -> Vec<Action> {
    match (key.code, control) {
        (KeyCode::Enter, _) => return model.submit(),
        (KeyCode::Esc, _) => model.focus = Focus::List,
        (KeyCode::Up, _) => return model.scroll(-1),
        (KeyCode::Down, _) => return model.scroll(1),
        (KeyCode::Left, _) => model.input.left(),
        (KeyCode::Right, _) => model.input.right(),
        (KeyCode::Home, _) | (KeyCode::Char('a'), true) => model.input.home(),
        (KeyCode::End, _) | (KeyCode::Char('e'), true) => model.input.end(),
        (KeyCode::Backspace, _) | (KeyCode::Char('h'), true) => model.input.backspace(),
        (KeyCode::Delete, _) => model.input.delete(),
        (KeyCode::Char('w'), true) => model.input.kill_word(),
        (KeyCode::Char('u'), true) => model.input.kill_to_start(),
        (KeyCode::Char('k'), true) => model.input.kill_to_end(),
        (KeyCode::Char(c), false) => {
            model.input.insert(c);
            return model.typed();
        }
        _ => {}
    }
    Vec::new()
}
