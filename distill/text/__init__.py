"""Pure string work: think blocks, answers, chat templates, languages."""
