"""Ask a student about a clip:  python examples/ask.py STUDENT CLIP "What is heard?" "a dog" "rain"."""

import sys

from avrt import ask, load_clip, load_policy

student, clip, question, *choices = sys.argv[1:]
policy = load_policy(student)
response = ask(policy, load_clip(clip), question, choices)
print(response.text)
print("choice:", response.letter or "none can be read")
