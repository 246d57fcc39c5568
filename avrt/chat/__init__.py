"""A local web page on which one talks to a student: see what it gets, what it reasons, and what each sense adds."""
