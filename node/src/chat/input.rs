//! The line that is being typed. The cursor stands between characters.

use flotilla_proto::limits;

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Input {
    chars: Vec<char>,
    cursor: usize,
}

impl Input {
    pub fn text(&self) -> String {
        self.chars.iter().collect()
    }

    pub fn is_empty(&self) -> bool {
        self.chars.is_empty()
    }

    /// What stands before the cursor.
    pub fn before(&self) -> String {
        self.chars[..self.cursor].iter().collect()
    }

    pub fn take(&mut self) -> String {
        self.cursor = 0;
        std::mem::take(&mut self.chars).into_iter().collect()
    }

    /// Back as it was, the cursor behind it.
    pub fn put_back(&mut self, text: &str) {
        self.chars = text.chars().collect();
        self.cursor = self.chars.len();
    }

    /// Left out where the line would not fit into a message.
    pub fn insert(&mut self, c: char) {
        // Four bytes a character, at most.
        if self.chars.len() < limits::BODY_BYTES_MAX / 4 && !c.is_control() {
            self.chars.insert(self.cursor, c);
            self.cursor += 1;
        }
    }

    pub fn backspace(&mut self) {
        if self.cursor > 0 {
            self.cursor -= 1;
            self.chars.remove(self.cursor);
        }
    }

    pub fn delete(&mut self) {
        if self.cursor < self.chars.len() {
            self.chars.remove(self.cursor);
        }
    }

    pub fn left(&mut self) {
        self.cursor = self.cursor.saturating_sub(1);
    }

    pub fn right(&mut self) {
        self.cursor = (self.cursor + 1).min(self.chars.len());
    }

    pub fn home(&mut self) {
        self.cursor = 0;
    }

    pub fn end(&mut self) {
        self.cursor = self.chars.len();
    }

    pub fn kill_to_start(&mut self) {
        self.chars.drain(..self.cursor);
        self.cursor = 0;
    }

    pub fn kill_to_end(&mut self) {
        self.chars.truncate(self.cursor);
    }

    pub fn kill_word(&mut self) {
        let mut start = self.cursor;
        while start > 0 && self.chars[start - 1].is_whitespace() {
            start -= 1;
        }
        while start > 0 && !self.chars[start - 1].is_whitespace() {
            start -= 1;
        }
        self.chars.drain(start..self.cursor);
        self.cursor = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Input {
        let mut input = Input::default();
        text.chars().for_each(|c| input.insert(c));
        input
    }

    #[test]
    fn editing_in_the_middle_of_wide_characters() {
        let mut input = typed("añ世b");
        input.left();
        input.backspace();
        input.insert('界');
        assert_eq!(input.text(), "añ界b");
        assert_eq!(input.before(), "añ界");
        input.home();
        input.delete();
        input.end();
        input.right();
        input.insert('!');
        assert_eq!(input.take(), "ñ界b!");
        assert!(input.is_empty() && input.before().is_empty());
    }

    #[test]
    fn words_and_lines_are_cut_at_the_cursor() {
        let mut input = typed("one two  ");
        input.kill_word();
        assert_eq!(input.text(), "one ");
        input.insert('x');
        input.left();
        input.kill_to_start();
        assert_eq!(input.text(), "x");
        input.home();
        input.kill_to_end();
        assert!(input.is_empty());
        // Nothing to cut: nothing happens.
        input.kill_word();
        input.backspace();
        input.delete();
        input.insert('\u{7}');
        assert!(input.is_empty(), "a control character is not text");
    }
}
