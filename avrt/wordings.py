"""How people and models word an answer: the patterns of `avrt.choices`, which has the rules."""

from __future__ import annotations

import re

# the spelling of Qwen, DeepSeek and most others, and that of Kimi
THOUGHT = re.compile(r"</think>|\u25C1/think\u25B7")
THINKS = re.compile(r"<think>|\u25C1think\u25B7")
TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL | re.IGNORECASE)
WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf|rm|bf)\s*\{([^{}]*)\}")
BOXED = re.compile(r"\\?\b(?:boxed|fbox)\s*\{([^{}]*)\}")
FENCE = re.compile(r"```\w*|~~.*?~~|<\|[^|<>]*\|>|</?s>")
ARROW = re.compile(r"(?:->|=>|\u2192|\u21D2)\s*")
MARKUP = re.compile(
    r"[*`$\"\u201C\u201D\u00AB\u00BB{}]|\\[()\[\]]|(?m:^\s*[#>\u2022]+|^\s*[-+]\s)|(?<!\w)_+|_+(?!\w)|[\u200B-\u200F\u2060\uFEFF]"
)
CJK_MARKS = str.maketrans({"\u3002": ". ", "\u3010": "[", "\u3011": "]", "\u300c": " ", "\u300d": " ", "\u2019": "'"})

# the word for "answer" in the languages in which open models reply
ANSWER = (
    r"(?:answer|solution|option|choice|r[\u00E9e]ponse|antwort|l[\u00F6o]sung|respuesta|resposta|risposta|odpowied[\u017Az]|"
    r"cevap|\u043E\u0442\u0432\u0435\u0442|\u0432\u0456\u0434\u043F\u043E\u0432\u0456\u0434\u044C)"
)
ABOUT = r"(?:\s+(?:here|above|below|correcte?|correcta|richtige|to\s+(?:the|this|your)\s+question|i\s+\w+))?"
CJK_ANSWER = (
    r"(?:\u6B63\u89E3|\u7B54\u6848|\u7B54\u3048|"
    r"\u9009\u9879|\u9078\u9805|\u9009\u62E9?|\u9078\u64C7|\uC815\uB2F5|\uB2F5)"
)
IS = (
    r"(?:\s*(?:is|was|would\s+be|must\s+be|should\s+be|has\s+to\s+be|will\s+be|est|ist|lautet|es|\u00E9|\u00E8)\b"
    r"(?:\s+(?:(?:most|very)\s+)?(?:likely|\w+ly|therefore|thus|then|la|le|el|die|der|il))*\b)"
)
CJK_IS = r"\s*(?:\u662F|\u4E3A|\u70BA|\u306F|\u5E94\u4E3A|\u5E94\u8BE5\u662F|\uC740|\uB294)?\s*"
LABEL = re.compile(
    rf"(?i)(?:(?<![^\W\d_]){ANSWER}(?:{ABOUT}{IS}\s*[:=]?|\s*[:=]|\s*[-\u2013\u2014]\s+|\s+(?=[(\[]?[A-Z][)\]]?\s*(?:[.:,;]|$)))|{CJK_ANSWER}{CJK_IS}[:=]?)\s*",
    re.MULTILINE,
)
CHOSEN = re.compile(
    r"(?i)\b(?:(?:i|we)(?:'d|'ll|'m|\s+would|\s+will|\s+am|\s+have\s+to|\s+must)?\s+(?:\w+ly\s+)?"
    r"(?:choose|pick|select|go(?:ing)?\s+(?:with|for)|say|vote\s+for|guess|think|believe|conclude|answer(?:\s+with)?|choosing|picking|"
    r"lean(?:ing)?\s+towards?|settle\s+(?:on|for)|opt\s+for)\b"
    r"|(?:so|therefore|thus|hence|consequently|in\s+conclusion|overall)\b,?)\s*(?:that\s+)?"
    r"(?:(?:it|this)\s*(?:is|'s|must\s+be|has\s+to\s+be|would\s+be)\b)?\s*"
)
IT_IS = re.compile(r"(?i)\b(?:it|this|that)\s*(?:is|'s|must\s+be|has\s+to\s+be|would\s+be|should\s+be)\b\s*")
RIGHT = re.compile(
    r"(?i)\s+(?:is|must\s+be|seems|fits|matches)\s*(?:therefore\s+|\w+ly\s+)?(?:the\s+|my\s+)?"
    r"(?:(?:only|most|final|correct|right|best)\s+)*(?:correct|right|best|true|likely|answer|choice|option)\b|\s+fits\b(?!\s+(?:less|poorly|worse|badly))"
)
QUESTION = re.compile(r"\?\s*$")
BREAK = re.compile(r"\n|(?<=[.!?])\s+(?=\S)|;\s*")
CLAUSE = re.compile(r"[,:;.!?\n]\s|\s-\s|\b(?:but|so|because|since|as|hence|therefore|and\s+(?:it|the)\b)")
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
# what may stand between an option's text and its letter
BEFORE_LETTER = re.compile(
    r"[ ,;(\[:\u2013\u2014-]*(?:(?:so|thus|hence|therefore|i\.e\.|which\s+is|option|choice)\b[\s,(\[:]*)*"
)
INTRODUCED = re.compile(
    r"(?i)\b(?:option|choice|answer|letter|not|either|neither|nor|or|and|is|be|it's|than|of|maybe|possibly|perhaps|probably|"
    r"likely|only|just|say|pick|choose|select|with|for)\s*\Z"
)
# "Mr. B", "B flat"
NAME_BEFORE = re.compile(r"(?:Mr|Mrs|Ms|Dr|Prof|St)\.\s*\Z|(?i:\b(?:vitamin|plan|type|grade|hepatitis|group)\s*\Z)")
NAME_AFTER = re.compile(r"[\s-]*(?:flat|sharp|major|minor)\b")
VERB_AFTER = re.compile(r"\s+(?:is|was|fits|matches|seems|cannot|can't|isn't|doesn't|might|could|would|must)\b")
LABELLED = re.compile(r"(?i)(?:\b(?:option|choice|answer|letter)|:)\s*\Z")
LISTED_AFTER = re.compile(r"\s*(?:,|/|&|\band\b|\bor\b)\s*(?:or\s+|and\s+)?[(\[]?[A-Z](?![\w'])")
SET_OFF = re.compile(r"\s*(?:[).:,;!?/]|-|$)")
# what follows the letter A but not the article
NO_NOUN = re.compile(r"\s+\(?(?:is|was|because|since|as|or|and|nor|but|rather|instead|not|fits|matches|seems)\b")
