"""How likely a student finds each option, and an answer with reasoning:  python examples/score.py STUDENT CLIP."""

import sys

import avrt

student = avrt.load(sys.argv[1])
clip = student.open(sys.argv[2])  # decoded once, for several questions
question, choices = "Which sound is heard?", ["low hum", "high whistle", "steady hiss", "quick clicks"]
for choice, nats in zip(choices, student.score(clip, question, choices), strict=True):
    print(f"{nats:8.2f}  {choice}, as a bare answer")
answer = student.ask(clip, question, choices).text
print(f"{student.score(clip, question, choices, [answer])[0]:8.2f}  {answer}")
