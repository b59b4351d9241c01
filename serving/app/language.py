"""The words of the page, in English and Chinese."""

LANGUAGES = {"en": "English", "zh": "中文"}

_WORDS = {
    "title": ("Image search", "图像检索"),
    "skip": ("Skip to the results", "跳到结果"),
    "label": ("What are you looking for?", "您要找什么？"),
    "hint": ("Describe it in a sentence", "用一句话描述"),
    "search": ("Search", "搜索"),
    "picture": ("Choose a picture", "选择图片"),
    "drop": ("or drop or paste one anywhere", "也可拖放或粘贴到页面任意位置"),
    "options": ("Refine", "细化"),
    "plus": ("and also", "并且还要"),
    "minus": ("but without", "但不要"),
    "where": ("Only where", "仅限条件"),
    "where_hint": (
        'such as year >= 2010 and tags contains "dog"',
        '例如 year >= 2010 and tags contains "dog"',
    ),
    "where_caption": ('such as caption contains "dog"', '例如 caption contains "dog"'),
    "keys": ("Keys:", "可用的键："),
    "rerank": ("Let the pair model put the best in order", "由配对模型重新排序"),
    "examples": ("Try one of these:", "试试这些："),
    "terms": ("The query", "查询条件"),
    "remove": ("Remove", "移除"),
    "shown_picture": ("your picture", "您的图片"),
    "results": ("Results", "结果"),
    "found": ("Places {first} to {last} of {items}.", "第 {first} 至 {last} 位，共 {items} 项。"),
    "nothing": ("Nothing was found.", "没有找到。"),
    "begin": ("Or begin with one of these pictures", "或从这些图片开始"),
    "no_fit": ("Nothing here really fits.", "这里没有真正符合的内容。"),
    "no_fit_why": (
        "The best hit stands {deviations} standard deviations above the usual score of this query; a hit that "
        "fits stands at {cutoff} or more. The nearest are shown all the same.",
        "最佳结果高出该查询通常得分 {deviations} 个标准差；符合的结果应达到 {cutoff} 以上。下面仍列出最接近的内容。",
    ),
    "unknown": ("The model does not know these words: {words}", "模型不认识这些词：{words}"),
    "knows_none": (
        "The model has never seen these words: {words}. Try words as in the captions of the pictures.",
        "模型从未见过这些词：{words}。请使用与图片描述相近的词句。",
    ),
    "rank": ("Place {rank}", "第 {rank} 位"),
    "score": ("score", "得分"),
    "fits": ("fits", "符合"),
    "fits_not": ("hardly fits", "勉强"),
    "moved_up": ("up {by} by re-ranking", "重排上升 {by} 位"),
    "moved_down": ("down {by} by re-ranking", "重排下降 {by} 位"),
    "indexes": ("What is searched", "检索范围"),
    "together": ("{first} beside {second}", "{first} 与 {second} 并排"),
    "there": ("place {rank} in {index}", "在 {index} 中为第 {rank} 位"),
    "not_there": ("not shown in {index}", "{index} 中未显示"),
    "shared": ("{number} of these pictures are on both sides.", "其中 {number} 项两侧都有。"),
    "no_index": ("There is no index called {name}.", "没有名为 {name} 的索引。"),
    "less": ("Less weight for", "降低权重："),
    "more": ("More weight for", "提高权重："),
    "weight": ("weight", "权重"),
    "average": ("this term's part of the scores shown, on average", "该条件在所示得分中的平均份额"),
    "like": ("More like this", "更多类似"),
    "caption": ("Search for this caption", "搜索此描述"),
    "add": ("Add to the query", "加入查询"),
    "take": ("Less like this", "减少类似"),
    "previous": ("Previous page", "上一页"),
    "next": ("Next page", "下一页"),
    "pages": ("Pages", "分页"),
    "close": ("Close", "关闭"),
    "before": ("Previous hit", "上一条"),
    "after": ("Next hit", "下一条"),
    "dialog": ("Hit", "结果详情"),
    "details": ("Details of", "查看详情："),
    "shares": ("What made the score", "得分构成"),
    "words": ("What each word contributed", "每个词的贡献"),
    "words_note": (
        "The thicker the line, the more the score falls without the word.",
        "下划线越粗，去掉该词后得分下降越多。",
    ),
    "regions_note": (
        "Frames mark the regions without which the score falls most.",
        "方框标出去掉后得分下降最多的区域。",
    ),
    "metadata": ("What is known", "已知信息"),
    "no_picture": ("no picture", "无图片"),
    "about": (
        "{items} items in {index}, model {model} ({family}), of {date}.",
        "{index} 中有 {items} 项，模型 {model}（{family}），日期 {date}。",
    ),
    "took": ("Answered in {milliseconds} ms.", "用时 {milliseconds} 毫秒。"),
    "api": ("For programs", "程序接口"),
    "language": ("Language", "语言"),
    "failed": ("The service did not answer. Try again.", "服务没有应答，请重试。"),
    "searching": ("Searching …", "搜索中……"),
    "picture_gone": (
        "Only the browser that chose this picture knows it. Choose it again.",
        "只有选择该图片的浏览器持有它，请重新选择。",
    ),
    "missing": ("There is nothing at this address.", "此地址没有内容。"),
    "home": ("Go to the search", "前往搜索"),
    "no_such": ("There is no such item.", "没有这一项。"),
    "full": ("Too many queries wait. Try again in a moment.", "排队的查询过多，请稍后再试。"),
    "too_big": ("The picture is too large.", "图片过大。"),
}


def words_of(language: str) -> dict[str, str]:
    """Return the words of the page in a language, English for one that it does not have."""
    place = 1 if language == "zh" else 0
    return {name: both[place] for name, both in _WORDS.items()}


def preferred(asked: str | None, accepted: str) -> str:
    """Return the language asked for, or else the first one of the header Accept-Language that is there."""
    if asked in LANGUAGES:
        return asked
    for part in accepted.split(","):
        language = part.partition(";")[0].strip().lower().partition("-")[0]
        if language in LANGUAGES:
            return language
    return "en"
