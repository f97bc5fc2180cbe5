"""Word lists by language for `similar`: greetings, fillers, words that a capital changes, kinds of words.

Written for this package by hand. A word that is missing from a list costs a saving and never an answer: what
no list holds is asked.
"""

from __future__ import annotations

from collections.abc import Mapping

Phrases = Mapping[str, tuple[tuple[str, ...], ...]]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str, key: int) -> Phrases:
    """Phrases by their first (0) or last (-1) word, long ones first."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for phrase in text.split("|"):
        words = tuple(phrase.split())
        found.setdefault(words[key], []).append(words)
    return {word: tuple(sorted(group, key=len, reverse=True)) for word, group in found.items()}


# Openings of a message. They go where a comma or full stop follows, or one of FOLLOWERS.
GREETINGS = _phrases(
    # English
    "hi|hello|hey|hi there|hello there|hey there|hi team|hello team|hey team|hi all|hello all|hi everyone"
    "|hello everyone|hey guys|hi guys|hello guys|good morning|good afternoon|good evening|good day|greetings"
    "|dear sir or madam|dear sir|dear madam|dear sirs|dear team|dear all|dear support|dear support team"
    "|dear customer service|dear customer support|to whom it may concern|hello support|hi support"
    # German
    "|hallo|guten tag|guten morgen|guten abend|moin|servus|grüß gott|grüezi|hallo zusammen|hallo team"
    "|hallo liebes team|liebes team|hallo an alle|sehr geehrte damen und herren|hallöchen|schönen guten tag"
    # French
    "|bonjour|bonsoir|salut|coucou|bonjour madame|bonjour monsieur|bonjour à tous|bonjour à toutes et à tous"
    "|bonjour à vous|bonjour l'équipe|salut à tous"
    # Spanish
    "|hola|buenas|muy buenas|buenos días|buenas tardes|buenas noches|hola buenas|hola a todos|hola equipo"
    "|hola buenos días|hola buenas tardes|estimados señores|estimado equipo",
    key=0,
)
# A greeting before one of these needs no comma ("hi my card"); elsewhere it may be a name ("Hello Kitty").
FOLLOWERS = _words(
    """
    i i'm i've i'd my we our can could would how what why when where is are do does did please have ich wir
    mein meine kann können könnte könnten wie warum wieso wo wann habe haben bitte je j'ai j'aimerais nous
    mon ma mes comment pourquoi est-ce puis-je pouvez-vous quand mi mis quiero quisiera necesito cómo puedo
    puede pueden tengo dónde cuándo
    """
)
# Sounds before the first word, where a comma follows.
HESITATIONS = _words("um uh uhm umm erm ehm well äh ähm öhm euh ben bah eh ehh pues bueno")
# Closings of a message, after a comma or the end of a sentence.
SIGN_OFFS = _phrases(
    # English
    "thanks|thank you|many thanks|thanks in advance|thank you in advance|thanks again|thank you very much"
    "|thank you so much|thanks so much|regards|best regards|kind regards|warm regards|best wishes|cheers"
    "|sincerely|yours sincerely|yours faithfully|thx"
    # German
    "|danke|vielen dank|danke schön|dankeschön|besten dank|herzlichen dank|danke im voraus"
    "|vielen dank im voraus|besten dank im voraus|mfg|mit freundlichen grüßen|freundliche grüße"
    "|viele grüße|liebe grüße|beste grüße|schöne grüße"
    # French
    "|merci|merci beaucoup|merci d'avance|merci bien|merci par avance|cordialement|bien cordialement"
    "|bonne journée|bonne soirée|bien à vous|salutations|sincères salutations"
    # Spanish
    "|gracias|muchas gracias|mil gracias|gracias de antemano|muchas gracias de antemano|saludos|un saludo"
    "|saludos cordiales|un cordial saludo|atentamente",
    key=-1,
)
# Chinese and Japanese write no spaces between words: a mark or a space has to set these apart.
CJK_GREETINGS = _words(
    """
    你好 您好 大家好 嗨 哈喽 哈啰 早上好 下午好 晚上好 こんにちは こんばんは おはようございます
    はじめまして お世話になっております お世話になります いつもお世話になっております すみません
    すいません お疲れ様です
    """
)
CJK_SIGN_OFFS = _words(
    """
    谢谢 谢谢您 谢谢你 谢谢大家 非常感谢 多谢 感谢 謝謝 謝謝您 ありがとうございます
    ありがとうございました ありがとう よろしくお願いします よろしくお願いいたします 宜しくお願いします
    宜しくお願い致します よろしくお願い致します よろしく
    """
)

# "Can you please …", "Können Sie mir bitte …": asked for politely, or not, it is the same question.
ASKING = _words(
    """
    can could would will may können könnten kannst könntest könnt würden würdest kann könnte dürfte darf
    """
)
ASKED = _words("you i we someone somebody anyone sie du ihr ich wir man mir uns mich")
PLEASE = _words("please bitte pls plz")
# Before a last "please" without a comma: after other words it may be the verb ("hard to please").
BEFORE_PLEASE = _words("me asap")
S_IL_VOUS_PLAIT = _phrases("s'il vous plaît|s'il te plaît|s'il vous plait|s'il te plait|svp|stp", key=-1)

# Written without their apostrophe these are no other words (its, well, were, ill, id, shell, lets are).
CONTRACTIONS = {
    word.replace("'", ""): word
    for word in _words(
        """
        don't doesn't didn't isn't aren't wasn't weren't hasn't haven't hadn't couldn't wouldn't shouldn't
        can't won't mustn't needn't i've you're you've we've they're they've that's what's there's
        """
    )
}

# Words that in a text of capitals may be an acronym, or German's polite pronoun: who tells "US" from "us"?
AMBIGUOUS_IN_CAPITALS = _words(
    """
    us it who may aids led pin sim ram rom cat ace era pet tan sat act gas mint ing bat am pm id ad pr hr ps
    ms ma ba un ai apt chip cob cop cope core dare dip dos ego face fair gap gem gps grid ion jam lap mad
    map mars mice mob mod nap net nod pod rag rap rip safe sap ski smart snap soap star swift tab tag tar
    tin van via wasp start salt eu rad los tor mer ave ser pa la dot dna sars care
    sie ihnen ihr ihre ihren ihrem ihrer ihres
    """
)
# Words that a capital makes a name, a brand, a place, a people, a month; German's polite pronouns, and German
# nouns that are also other words.
NAMES_THAT_ARE_WORDS = _words(
    """
    march august june may polish turkey china apple amazon windows word excel teams zoom slack chrome safari
    edge oracle meta target gap shell dove tide orange sprint visa square stripe chase galaxy swift rust
    python java ruby pearl mark bill rose grace hope faith joy jack bob frank rob sue pat drew dean guy art
    gene ray dawn eve ivy lily daisy violet olive penny sandy rusty chuck nick miles christian victor ernest
    max king baker fisher hunter mason carter potter bush trump ford dodge lincoln jaguar mustang beetle
    golf mini fiat seat mercury saturn mars venus earth jordan chad georgia cuba guinea greece hungary bath
    cork phoenix buffalo jersey bordeaux champagne danish turkish swede finish catholic orthodox liberal
    labour labor conservative democrat democratic republican greens congress senate internet bible god lord
    lent cancer leo virgo gemini sun moon time life people fortune guardian mirror post monitor mail bing
    alexa siri echo kindle fire prime wish uber lift lyft bolt lime bird dash signal telegram discord
    discover steam epic notion linear sketch figma drive keep photos maps pages numbers notes bumble tinder
    hinge match monster indeed twitter threads brave opera tor spark flink storm kafka hive pig spring
    django flask rails swan puma kappa fossil coach diesel lush axe dial joker thor hulk vision falcon rogue
    barry barb basil bay bea belle berry beth blanche blaze brook candy carol cat chance charity cherry chip
    cliff clay colt cruz crystal dale dick dolly don duke earl ebony elder fern flora forest gale gay ginger
    glen hank harmony harry hazel heath heather herb holly homer honey iris jasmine jean jewel jimmy john
    josh kitty laurel lance lane marina martin matt melody mercy merry misty morgan myrtle norm opal paris
    patience peg peter piper poppy prudence randy reed rich rick robin rocky roman roger russell sage sally
    savannah scarlet scott serena sharp sherry sky skip sonny stark stella stone stormy summer autumn winter
    tanner taylor terry tiffany tony trinity tucker viola wade ward warren wayne wells west willow woods
    woody worth wren lima nancy nice reading cologne brazil malta panama hamburg hamburger wiener
    frankfurter berliner pole poles slav slavs finn dane angel subway wendy always bounty milky black white
    brown green gray grey young long short small will can ace access outlook publisher project surface
    explorer reader acrobat flash illustrator premiere shuttle challenger columbia independence independent
    union state house east south north northern western eastern southern central bank treasury crown court
    prince princess queen pope president minister parliament mass easter advent epiphany creation revelation
    genesis exodus acts judges mastercard maestro monopoly risk scrabble cluedo friends lost bones castle
    heroes dallas dynasty frozen cars up alien titanic gladiator her it them us jaws psycho vertigo barbie
    sie ihnen ihr ihre ihren ihrem ihrer ihres weg arm reise rasen liebe dank morgen recht macht laut würde
    kosten steuer abend mittag angst leid schuld ernst paar band floh spinnen gefangene dichter vögeln
    blasen leben lieben laufen fahren schreiben verhalten vertrauen wagen sagen klagen fragen fliegen wachen
    stille gut böse alte neue junge kleine große deutsche arme reiche kranke fremde gute wirt rat tat pleite
    essen halle singen regen siegen hagen hamm worms lage rosa blanca luz mar sol paz consuelo dolores
    mercedes pilar león flor reyes santos pierre claire mistral marguerite cerise aimé désiré constant
    clément prudent juste bloc carrefour free bourgogne suisse corse polonaise anglaise française español
    francés claro movistar bravo ángel victoria gloria esperanza rosario franco wise chime ally starling
    capital citizens regions current simple cash affirm pay office music news contacts messages docs sheets
    forms meet chat paint express delta united spirit frontier alaska virgin eagle boots next iceland game
    action tiger real netto wood hill rivers banks bell bishop butler church cross day fox frost gold golden
    hall hand hart hawk hood judge knight lamb lake law love marsh moody moss park parks pond pool porter
    power price rice savage sergeant shepherd singer snow steel strange street temple waters weaver wolf
    wright big trust direct first city best family dollar old navy forever hot urban contact calendar clock
    health home files books store stocks tips voice weather camera cloud pixel note studio code live
    """
)
# At the start of a sentence these carry grammar's capital: the name would be rarer than the word.
PLAIN_AT_THE_START = _words(
    """
    hope guess life house heroes mass sale band chance nice reading time people keep match notes numbers
    always indeed drive may will can it us them her up black white brown green gray grey young long short
    small access discover independent smart west east south north central bank state project lost risk free
    friends cars sharp skip sie ihr ihre ihren ihrem ihrer ihres ihnen gut alte neue gute kleine große
    kosten würde macht juste deutsche mail photos pages finish wish post surface western eastern northern
    southern patience laut fragen schreiben claro flash outlook summer winter autumn spring internet wise
    chime ally starling capital citizens regions current simple cash affirm pay office music news contacts
    messages docs sheets forms meet chat paint express delta united spirit frontier virgin eagle boots next
    game action tiger real netto stone wood hill rivers banks bell bishop butler church cross day fox frost
    gold golden hall hand hart hawk hood judge knight lamb lake law love marsh moody moss park parks pond
    pool porter power price rice savage sergeant shepherd singer snow steel strange street temple waters
    weaver wolf wright big trust direct first city best family dollar old navy forever hot urban contact
    calendar clock health home files books store stocks tips voice weather camera cloud pixel note studio
    code live
    """
)
CASED = AMBIGUOUS_IN_CAPITALS | NAMES_THAT_ARE_WORDS
NAMES_EVEN_AT_THE_START = NAMES_THAT_ARE_WORDS - PLAIN_AT_THE_START
CASED_IN_CAPITALS = AMBIGUOUS_IN_CAPITALS | NAMES_EVEN_AT_THE_START
# Their small letters mean nothing else.
HARMLESS_ACRONYMS = _words(
    """
    atm atms usd eur gbp chf jpy inr faq faqs pdf vpn sms url html sql csv iban iphone ipad paypal wifi
    wi-fi tv pc usb dvd cv http https api ebay youtube whatsapp linkedin
    """
)

# Function words: they show that a text's capitals are grammar's or its writer's mood, and tell the language.
FUNCTION_WORDS: Mapping[str, frozenset[str]] = {
    "en": _words(
        """
        the of and to is my i'm i've it's that's you your we our they their this these those with from for
        have has had does did don't doesn't didn't isn't wasn't can't won't couldn't would could should been
        what why when where how which who if than then there here about into are were be not but because i
        it he she him her his its at by do can a an as on in or so no us me was will
        """
    ),
    "de": _words(
        """
        der das und ist nicht ich wir mein meine meinen meiner meinem ihr ihre sie er es ein eine einen
        einem einer kein keine keinen mit von zu zum zur auf aus bei nach für über unter wurde wird werden
        kann können habe haben hat bin sind war wie warum wann wo wenn dass aber oder auch noch schon nur
        den dem im am die des an in so was um mir mich sich uns als
        """
    ),
    "fr": _words(
        """
        le les un une et est je j'ai n'ai pas ne mon ma mes vous nous votre notre il elle ils elles du dans
        pour avec sur par ce cette ces que qui quand comment pourquoi où mais ou donc été être avoir n'est
        c'est d'un d'une l'application la de des à au aux se me on en plus suis a
        """
    ),
    "es": _words(
        """
        el los las y mi mis su sus un una unos en por para con sin del al lo le se que qué cómo cuándo dónde
        pero porque está están he ha han fue ser es yo nos muy más ya no me la de a o si sí
        """
    ),
}
CLOSED = frozenset().union(*FUNCTION_WORDS.values())


def _exclusive() -> dict[str, str]:
    found: dict[str, str] = {}
    for language, words in FUNCTION_WORDS.items():
        others = frozenset().union(*(w for name, w in FUNCTION_WORDS.items() if name != language))
        found |= dict.fromkeys(words - others, language)
    return found


LANGUAGE_OF: Mapping[str, str] = _exclusive()
"""Function words that only one of the languages has."""

# A comma before these and a subject sets two clauses apart, and leaving it out changes neither.
CONJUNCTIONS = _words("and but so or aber sondern et mais ou donc pero y")
SUBJECTS = _words(
    "i i'm i've it it's he she we they you ich er wir sie es man je j'ai il elle nous vous on yo"
)
# "nobody, but she came" and "nobody but she came" differ.
EXCEPTABLE = _words(
    """
    nobody nothing none everybody everyone everything anybody anyone anything all no-one niemand nichts alle
    personne rien tous nadie nada todos
    """
)
SUBORDINATORS = _words("dass weil wenn ob warum wieso wann obwohl damit")
"""German: the comma before them is spelling alone."""
CLAUSE_OPENERS = _words("if when once since")
ADVERB_OPENERS = _words(
    """
    also unfortunately yesterday today recently lately currently additionally hier ayer hoy
    """
)

AUXILIARIES = _words(
    """
    can could would will should is are was were am does did has do have may might must can't won't isn't
    aren't don't doesn't didn't haven't hasn't couldn't wouldn't shouldn't
    """
)
EN_SUBJECTS = _words("i you we they he she it there my your the this that these those someone anyone")
# "Do it", "have it sent" are orders.
ORDERING = _words("do have")
PERSONS = _words("i you we they")
# "Should you need it …", "may you live long", "don't you dare": these ask with other persons alone.
WISHING = _words("should may must might were don't")
OTHER_PERSONS = _words("i we they")
DE_INTERROGATIVES = _words("wie wo wann warum wieso was wohin woher")
DE_ASKING = DE_INTERROGATIVES | _words("kann können könnte könnten darf dürfen muss müssen soll sollen habe")
EN_ASKING = _words("how why where when what who")
ES_ASKING = _words("cómo cuándo dónde qué cuánto")
DE_PERSONS = _words("ich man wir sie du ihr")
DE_VERBS = _words(
    """
    kann können ist sind wird werden wurde wurden hat habe haben muss müssen soll finde bekomme komme kommt
    lange viel viele funktioniert geht erhalte ändere storniere kündige setze mache
    """
)
ES_VERBS = _words(
    """
    puedo puede hago está están es son se llega llegará llegan debo tengo funciona cancelo cambio recibiré
    va
    """
)
FR_ASKING = _words(
    """
    est-ce puis-je pouvez-vous pourriez-vous avez-vous
    peut-on dois-je y-a-t-il
    """
)
CJK_ASKING = tuple(_words("怎么 怎麼 怎样 如何 为什么 為什麼 什么时候 能不能 可不可以"))
CJK_ASKED = ("吗", "嗎", "ますか", "ませんか", "でしょうか", "ですか", "ましたか")
JA_SURELY_ASKED = ("ますか", "ませんか", "でしょうか", "ましたか")
"""With these endings a Japanese question takes a full stop as well as a question mark."""

# Words by what they say: they are never taken for a misspelling, and name the guard that refused a pair.
KINDS: Mapping[str, frozenset[str]] = {
    "negation": _words(
        """
        not no never none nothing nobody nowhere neither nor without cannot can't won't don't doesn't didn't
        isn't aren't wasn't weren't hasn't haven't hadn't couldn't wouldn't shouldn't mustn't needn't ain't
        hardly barely scarcely nicht nie niemals kein keine keinen keinem keiner keines nichts niemand weder
        ohne nein kaum nirgends ne pas n'ai n'est n'a n'ont jamais rien aucun aucune personne ni sans non
        nada nadie nunca jamás ningún ninguna ninguno sin tampoco except unless
        """
    ),
    "number": _words(
        """
        zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
        sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred
        thousand million billion trillion first second third fourth fifth sixth seventh eighth ninth tenth
        half quarter double triple once twice thrice dozen couple pair single both percent null eins zwei
        drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn zwanzig dreißig
        vierzig fünfzig hundert tausend millionen milliarde milliarden erste zweite dritte vierte ersten
        zweiten dritten halb doppelt einmal zweimal dreimal beide prozent zéro deux trois quatre cinq sept
        huit neuf dix onze douze treize quatorze quinze seize vingt trente quarante cinquante soixante cent
        mille millions milliard premier première deuxième troisième moitié cero uno dos tres cuatro cinco
        seis siete ocho nueve diez doce trece catorce quince veinte treinta cuarenta cincuenta sesenta
        setenta ochenta noventa cien ciento mil millones primero primera segundo segunda tercero tercera
        mitad doble ii iii iv vi vii viii ix xi xii
        """
    ),
    "date": _words(
        """
        monday tuesday wednesday thursday friday saturday sunday january february march april june july
        august september october november december today tomorrow yesterday tonight morning afternoon
        evening night noon midnight weekend day days week weeks month months year years hour hours minute
        minutes seconds daily weekly monthly yearly annual annually before after during until since ago
        earlier later montag dienstag mittwoch donnerstag freitag samstag sonnabend sonntag januar februar
        märz mai juni juli oktober dezember heute morgen gestern übermorgen vorgestern tag tage tagen woche
        wochen monat monate monaten jahr jahre jahren stunde stunden minuten vor nach seit bis lundi mardi
        mercredi jeudi vendredi samedi dimanche janvier février mars avril juin juillet août septembre
        octobre novembre décembre aujourd'hui demain hier jour jours semaine semaines mois an ans année
        heure heures avant après depuis pendant lunes martes miércoles jueves viernes sábado domingo enero
        febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre hoy mañana ayer
        día días semana semanas mes meses año años hora horas minutos antes después desde hasta
        """
    ),
    "unit": _words(
        """
        dollar dollars euro euros pound pounds cent cents yen yuan rupee rupees franc francs peso pesos usd
        eur gbp chf jpy inr cny aud cad kg g mg lb lbs oz km m cm mm mile miles metre metres meter meters
        foot feet inch inches litre litres liter liters ml gallon gallons ton tons tonne tonnes gram grams
        kilo kilos celsius fahrenheit gb mb tb kb gigabyte gigabytes megabyte megabytes volt volts watt
        watts kilometer kilometre kilometers kilometres meilen pfund dólar dólares libra libras livre livres
        kilómetros metros
        """
    ),
    "question": _words(
        """
        what why how when where which whose whom was wer wen wem wessen warum wieso weshalb wann welche
        welcher welches wohin woher qui quoi quand où pourquoi comment combien quel quelle quels quelles qué
        quién quiénes cuándo dónde cuál cuáles cuánto cuántos cómo est-ce
        """
    ),
}
KIND_OF: Mapping[str, str] = {word: kind for kind in reversed(list(KINDS)) for word in KINDS[kind]}
CJK_KINDS: Mapping[str, frozenset[str]] = {
    "negation": frozenset("不没沒無无未非别別莫勿否ぬず"),
    "number": frozenset("〇零一二三四五六七八九十百千万萬亿億兆两兩半数"),
    "date": frozenset("年月日时時秒周週昨今明早晚"),
    "unit": frozenset("元円圆块塊角斤克米里吨磅"),
    "question": frozenset("吗嗎呢か吧何谁誰"),
}
JA_NEGATIONS = ("ない", "ません", "なかった")
NEGATIVE_PREFIXES = _words("un in im il ir dis non mis dé des miss non- anti")
NEGATIVE_SUFFIXES = _words("less los free frei")
