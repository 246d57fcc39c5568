"""Ask a student about a clip:  python examples/ask.py STUDENT CLIP "What is heard?" "a dog" "rain"."""

import sys

import avrt

model, clip, question, *choices = sys.argv[1:]
student = avrt.load(model)
response = student.ask(clip, question, choices)
print(response.text)
print("choice:", response.letter or "none can be read")
