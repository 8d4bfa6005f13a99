"""Published lists of people, references and splits: `lists` reads them, `listed_faces` applies them to faces."""
