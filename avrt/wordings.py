"""How people and models word an answer: the patterns that `avrt.choices` reads with, without a rule of their own."""

from __future__ import annotations

import re

# Qwen, DeepSeek and most others; Kimi's own spelling.
THOUGHT = re.compile(r"</think>|\u25C1/think\u25B7")
THINKS = re.compile(r"<think>|\u25C1think\u25B7")
TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf|rm|bf)\s*\{([^{}]*)\}")
BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{([^{}]*)\}")
FENCE = re.compile(r"```\w*")
MARKUP = re.compile(
    r"[*`$\"\u201C\u201D\u00AB\u00BB{}]|\\[()\[\]]|(?m:^\s*[#>]+)|(?<!\w)_+|_+(?!\w)|[\u200B-\u200F\u2060\uFEFF]"
)
CJK_MARKS = str.maketrans({"\u3002": ". ", "\u3010": "[", "\u3011": "]", "\u300c": " ", "\u300d": " ", "\u2019": "'"})

# The word for "answer", alone or with an adjective, in languages that open models reply in.
ANSWER = (
    r"(?:answer|solution|option|choice|r[\u00E9e]ponse|antwort|l[\u00F6o]sung|respuesta|resposta|risposta|odpowied[\u017Az]|"
    r"cevap|\u043E\u0442\u0432\u0435\u0442|\u0432\u0456\u0434\u043F\u043E\u0432\u0456\u0434\u044C)"
)
CJK_ANSWER = r"(?:\u7B54\u6848|\u7B54\u3048|\u9009\u9879|\u9078\u9805|\u9009\u62E9?|\u9078\u64C7|\uC815\uB2F5|\uB2F5)"
IS = r"(?:\s*(?:is|was|would\s+be|must\s+be|should\s+be|has\s+to\s+be|will\s+be|est|ist|lautet|es|\u00E9|\u00E8)\b)"
CJK_IS = r"\s*(?:\u662F|\u4E3A|\u70BA|\u306F|\u5E94\u4E3A|\u5E94\u8BE5\u662F|\uC740|\uB294)?\s*"
LABEL = re.compile(
    rf"(?i)(?:(?<![^\W\d_]){ANSWER}(?:{IS}\s*[:=]?|\s*[:=]|\s+(?=[(\[]?[A-Z][)\]]?\s*(?:[.:,;]|$)))|{CJK_ANSWER}{CJK_IS}[:=]?)\s*",
    re.MULTILINE,
)
CHOSEN = re.compile(
    r"(?i)\b(?:(?:i|we)(?:'d|'ll|'m|\s+would|\s+will|\s+am|\s+have\s+to|\s+must)?\s+(?:\w+ly\s+)?"
    r"(?:choose|pick|select|go(?:ing)?\s+(?:with|for)|say|vote\s+for|guess|think|believe|conclude)\b"
    r"|(?:so|therefore|thus|hence|consequently|in\s+conclusion|overall)\b,?)\s*(?:that\s+)?"
    r"(?:(?:it|this)\s*(?:is|'s|must\s+be|has\s+to\s+be|would\s+be)\b)?\s*"
)
IT_IS = re.compile(r"(?i)\b(?:it|this|that)\s*(?:is|'s|must\s+be|has\s+to\s+be|would\s+be|should\s+be)\b\s*")
RIGHT = re.compile(
    r"(?i)\s+(?:is|must\s+be|seems|fits|matches)\s*(?:therefore\s+|clearly\s+)?(?:the\s+)?"
    r"(?:only\s+|most\s+)?(?:correct|right|best|true|likely)\b|\s+fits\b(?!\s+(?:less|poorly|worse|badly))"
)
QUESTION = re.compile(r"\?\s*$")
BREAK = re.compile(r"\n|(?<=[.!?])\s+(?=\S)|;\s*")
CLAUSE = re.compile(
    r"[,:;.!?\n]\s|\s-\s|\b(?:but|so|because|since|as|hence|therefore|and\s+(?:it|the)\b)|\bit\s+is\b|\bit's\b"
)
DENIED_BEFORE = re.compile(
    r"(?i)\b(?:not|never|cannot|neither|nor|no|without|excludes?|excluding|except|rather\s+than|instead\s+of|rules?\s+out|"
    r"ruled\s+out|eliminates?|eliminated|rejects?|going\s+to\s+say|unlike|\w+n't|nicht|kein|keine|pas)\b"
)
DENIED_AFTER = re.compile(
    r"(?i)^\s*(?:[-\u2013\u2014:]\s*)?(?:is|are|was|were|can|could|would|does|do|did|seems?|has|have|looks?|sounds?)?\s*"
    r"(?:both\s+|all\s+|be\s+|clearly\s+)*(?:not\b|cannot\b|n't\b|\w+n't\b|wrong\b|incorrect\b|false\b|impossible\b|unlikely\b|"
    r"(?:ruled|out)\b|eliminated\b|excluded\b|[-:,]\s*no\b)"
)
SUPPOSED = re.compile(r"(?i)\b(?:if|whether|unless|suppose|assuming|had\s+it|were\s+it)\b")
CORRECTED = re.compile(
    r"(?i)\b(?:no,?\s+wait|wait|actually|correction|sorry|scratch\s+that|on\s+second\s+thoughts?|or\s+rather|i\s+mean|"
    r"instead(?!\s+of)|after\s+all|in\s+fact|final|finally|let\s+me\s+correct|i\s+change)\b|\bno\s*[:,.]"
)
JOIN = re.compile(r"\s*(?:,|/|&|\band\b|\bor\b|,\s*(?:and|or)\b|\bnor\b|[()\[\]])*\s*")
ARTICLE = re.compile(r"\A(?:the|an?)\s+(?=\w)")
