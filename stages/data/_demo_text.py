"""Word material of the embedded dataset: topics, sentence patterns and a small knowledge base.

In a pattern `{noun}`, `{verb}`, `{adj}` are drawn from the topic (`{noun}` from the prompt's own words half of the time), `{focus}`
only from the prompt's own words, `{name}` is an invented name, `{num}` and `{year}` are numbers, `{key}` is the fact asked for.
Patterns are cut short and full of such places, so that two texts seldom share three words in a row.
"""

# Lists of words are easier to read and to extend as plain text on long lines.
# ruff: noqa: E501, SIM905
# fmt: off

# topic: plural nouns; verbs; adjectives
ENGLISH_TOPICS = {
    "astronomy": "planets galaxies telescopes comets orbits stars craters satellites eclipses nebulae asteroids rockets lenses meteors pulsars probes; observe orbit measure collide launch detect align photograph; distant bright massive stellar lunar icy dense faint",
    "baking": "ovens doughs loaves yeasts crusts flours pastries tins glazes cakes biscuits whisks batters fillings starters buns; knead proof bake fold sift chill whip decorate; crispy fluffy buttery golden sticky sourdough stale sweet",
    "gardening": "seedlings roots hedges compost beds bulbs weeds shrubs orchards greenhouses sprouts snails pots trellises petals saplings; prune water plant fertilise mulch harvest graft weed; leafy shady fertile drained thorny perennial wilted lush",
    "databases": "tables indexes queries schemas joins shards replicas transactions locks caches keys migrations rows columns views backups; index query normalise migrate replicate commit partition vacuum; relational consistent slow distributed transactional corrupt normalised temporary",
    "programming": "loops classes compilers pointers strings arrays threads modules parsers exceptions closures tests iterators buffers decorators branches; compile refactor debug parse iterate allocate import deploy; recursive static verbose immutable asynchronous nested deprecated generic",
    "medicine": "vaccines doctors symptoms tablets nurses infections scans arteries fevers doses allergies antibodies clinics wounds therapies surgeons; diagnose prescribe treat vaccinate inject examine recover bandage; chronic viral sterile painful acute bacterial feverish surgical",
    "law": "contracts courts judges clauses lawsuits tenants witnesses licences patents statutes juries appeals fines verdicts lawyers treaties; sue enforce testify appeal ratify draft prosecute settle; legal binding guilty civil void criminal statutory liable",
    "finance": "bonds shares loans budgets banks taxes dividends mortgages portfolios invoices currencies pensions funds interest debts auditors; invest borrow hedge diversify refund audit save insure; volatile taxable liquid risky fiscal solvent overdue profitable",
    "football": "goalkeepers strikers penalties stadiums referees midfielders corners leagues transfers coaches fans offsides trophies defenders passes tackles; dribble score tackle defend pass substitute train cheer; offside tactical injured relegated fierce agile undefeated athletic",
    "music": "guitars melodies chords drums choirs rhythms violins orchestras lyrics concerts keyboards harmonies scales tempos albums singers; compose strum sing rehearse tune conduct record improvise; acoustic melodic loud minor rhythmic classical harmonic orchestral",
    "painting": "brushes canvases pigments portraits frescoes palettes sketches galleries easels landscapes watercolours murals shadows frames varnishes artists; paint sketch blend exhibit varnish frame restore shade; abstract vivid oily impressionist matte colourful baroque textured",
    "history": "emperors battles dynasties revolutions empires treaties castles pharaohs colonies monarchs peasants archives crusades knights senators ruins; conquer abolish invade reign crown rebel excavate colonise; medieval ancient feudal imperial colonial roman royal victorian",
    "travel": "airports passports hotels itineraries beaches suitcases visas hostels ferries museums landmarks souvenirs trains tourists islands guidebooks; travel book pack board explore depart hike reserve; tropical scenic remote touristy coastal foreign crowded picturesque",
    "physics": "electrons photons magnets particles waves atoms lasers neutrons forces fields quarks pendulums vacuums currents isotopes collisions; accelerate radiate oscillate refract ionise emit polarise decay; quantum magnetic kinetic thermal radioactive elastic nuclear relativistic",
    "chemistry": "molecules acids catalysts polymers solvents bonds crystals reagents alkalis oxides esters beakers salts enzymes precipitates vapours; dissolve oxidise distil titrate react neutralise evaporate crystallise; acidic volatile organic soluble corrosive inert toxic covalent",
    "biology": "cells genes proteins bacteria mutations chromosomes tissues membranes embryos neurons fungi ribosomes organisms hormones parasites viruses; mutate divide evolve inherit replicate digest photosynthesise sequence; genetic cellular microscopic dominant recessive aquatic symbiotic embryonic",
    "weather": "storms clouds hurricanes forecasts blizzards fronts thermometers droughts breezes floods rainbows hailstones monsoons glaciers thunderstorms barometers; rain freeze forecast thaw drizzle flood condense blow; humid stormy foggy windy arctic mild rainy cloudy",
    "parenting": "toddlers naps bottles cradles tantrums playgrounds bedtimes strollers babies nappies kindergartens lullabies siblings chores toys nannies; soothe cuddle nurture babysit scold feed play praise; sleepy fussy playful stubborn newborn cranky affectionate patient",
    "fitness": "muscles squats treadmills marathons dumbbells stretches calories joggers gyms workouts sprints yoga lunges trainers planks proteins; stretch lift jog exercise sweat warm row sprint; muscular aerobic flexible sore strenuous lean fit exhausted",
    "cars": "engines tyres brakes gearboxes bumpers batteries spark-plugs radiators clutches garages mechanics headlights exhausts dashboards chassis fuels; brake overtake refuel park tow repair accelerate steer; diesel electric rusty hybrid automatic dented mechanical roadworthy",
    "education": "teachers exams essays lectures students homework scholarships classrooms textbooks grades syllabuses tutors universities seminars dissertations pupils; teach revise grade enrol lecture memorise graduate tutor; academic curricular diligent literate compulsory scholarly undergraduate gifted",
    "fashion": "dresses fabrics scarves designers boutiques seams sneakers jackets zippers runways hems jewels textiles buttons collars wardrobes; sew tailor wear stitch iron design dye hem; elegant silky vintage stylish woollen casual tailored trendy",
    "cinema": "directors actors screenplays sequels cameras trailers scenes villains scripts documentaries premieres cinemas soundtracks studios thrillers stunts; film direct act screen edit dub cast premiere; cinematic suspenseful animated dramatic noir comedic blockbuster scripted",
    "literature": "novels poets metaphors chapters protagonists sonnets narrators publishers genres authors stanzas plots manuscripts libraries fables memoirs; write narrate publish rhyme translate read foreshadow annotate; poetic fictional literary tragic lyrical satirical gothic epic",
    "philosophy": "ethics paradoxes arguments virtues stoics premises dilemmas beliefs sceptics axioms fallacies duties consciences truths dualists thinkers; reason doubt argue infer contemplate refute deduce believe; moral rational existential utilitarian metaphysical sceptical virtuous logical",
    "economics": "markets tariffs wages inflation monopolies consumers subsidies recessions exports incentives suppliers prices unions factories imports cartels; trade subsidise inflate export regulate compete deflate price; monetary scarce competitive macroeconomic inelastic industrial unemployed cyclical",
    "politics": "elections parliaments senators ballots coalitions ministers campaigns voters referendums debates mayors parties lobbyists constitutions mandates embassies; vote elect campaign govern legislate veto negotiate resign; democratic conservative liberal partisan federal electoral bipartisan populist",
    "robotics": "sensors motors drones actuators grippers circuits controllers joints batteries robots servos cameras wheels microchips solders gyroscopes; automate calibrate solder program grip navigate sense rotate; robotic autonomous mechanical wireless precise humanoid programmable motorised",
    "networking": "routers packets firewalls protocols servers ports switches domains sockets gateways proxies subnets cables certificates addresses tunnels; route ping encrypt forward connect broadcast throttle resolve; wireless encrypted local virtual redundant static congested remote",
    "learning-machines": "networks gradients datasets layers embeddings classifiers tokens kernels clusters regressors epochs labels features transformers neurons losses; train classify overfit predict regularise embed fine-tune sample; neural supervised convolutional stochastic sparse linear pretrained noisy",
    "animals": "elephants wolves penguins dolphins feathers tigers whales herds claws habitats owls foxes reptiles bears nests monkeys; hunt migrate hibernate graze mate roar swim howl; wild furry nocturnal carnivorous endangered venomous tame aquatic",
    "pets": "kittens puppies leashes aquariums hamsters collars parrots kennels litters vets rabbits treats whiskers breeds goldfish fleas; groom adopt walk pet bark purr vaccinate train; furry obedient shy loyal house-trained playful spayed cuddly",
    "architecture": "bridges skyscrapers arches facades columns cathedrals blueprints balconies domes beams foundations towers windows staircases roofs bricks; build design renovate insulate demolish plaster reinforce erect; gothic modernist concrete spacious structural wooden symmetrical soaring",
    "sailing": "sails anchors masts harbours compasses keels tides captains lighthouses hulls winches reefs ropes yachts buoys decks; sail anchor tack moor navigate hoist row capsize; nautical windward seaworthy maritime salty rigged tidal offshore",
    "chess": "pawns bishops openings gambits rooks checkmates endgames knights grandmasters boards clocks sacrifices queens castlings tournaments blunders; castle capture sacrifice checkmate promote fork pin defend; tactical positional cramped blitz aggressive passed isolated drawn",
    "coffee": "beans roasts espressos grinders filters cups baristas mugs aromas foams kettles brews plantations lattes capsules blends; brew roast grind pour steam sip froth taste; bitter roasted aromatic decaffeinated strong nutty creamy dark",
    "business": "startups customers managers brands meetings investors products salaries deadlines strategies competitors warehouses employees franchises logos emails; market hire negotiate outsource launch sell promote manage; corporate profitable lean scalable retail strategic loyal entrepreneurial",
    "security": "passwords hackers exploits viruses backups tokens breaches audits scams vulnerabilities permissions patches attackers sandboxes phishers logs; encrypt patch hack authenticate leak monitor exploit revoke; malicious encrypted vulnerable anonymous secure compromised privileged forensic",
    "mathematics": "integers primes matrices theorems proofs vectors polynomials fractions integrals triangles lemmas sequences equations graphs angles derivatives; prove integrate factorise differentiate multiply solve approximate count; prime finite convex irrational algebraic orthogonal infinite continuous",
    "psychology": "emotions memories habits dreams therapists phobias moods personalities motives traumas instincts anxieties attachments egos biases rewards; feel remember perceive cope motivate grieve empathise bond; emotional anxious cognitive subconscious behavioural introverted impulsive resilient",
}
FOREIGN_TOPICS = {
    "de": {
        "Küche": "Nudeln Gewürze Pfannen Suppen Kartoffeln Rezepte Töpfe Zwiebeln Saucen Kräuter Messer Beilagen; kochen würzen schneiden braten servieren rühren; frisch scharf knusprig gesund salzig lecker",
        "Verkehr": "Züge Straßen Fahrräder Bahnhöfe Busse Ampeln Brücken Fahrpläne Radwege Autobahnen Tunnel Schienen; fahren bremsen parken umsteigen planen ausbauen; pünktlich schnell verspätet elektrisch voll teuer",
        "Recht": "Verträge Gerichte Gesetze Mieter Klagen Fristen Anwälte Urteile Steuern Behörden Anträge Zeugen; klagen kündigen prüfen unterschreiben beantragen haften; gültig streng schriftlich strafbar befristet öffentlich",
        "Natur": "Wälder Vögel Flüsse Berge Bienen Wiesen Bäume Seen Rehe Pilze Wolken Blätter; wachsen blühen schützen wandern beobachten fliegen; grün wild selten geschützt feucht still",
    },
    "es": {
        "cocina": "recetas tomates hornos sartenes cebollas salsas verduras panes quesos ajos platos especias; cocinar hornear mezclar picar servir probar; picantes dulces saludables crujientes frescos calientes",
        "viajes": "hoteles playas trenes maletas aeropuertos museos islas mapas billetes ciudades montañas turistas; viajar reservar visitar volar caminar descansar; grandes tropicales lejanos urbanos baratos accesibles",
        "ciencia": "planetas células átomos teorías vacunas experimentos bacterias estrellas genes moléculas energías datos; medir observar demostrar investigar calcular descubrir; solares nucleares visibles importantes fiables variables",
        "trabajo": "empresas salarios contratos reuniones clientes jefes horarios proyectos ventas equipos informes plazos; negociar contratar vender planificar entregar dirigir; laborales rentables eficientes flexibles urgentes estables",
    },
    "fr": {
        "cuisine": "recettes fromages oignons sauces gâteaux poêles herbes pâtes légumes desserts couteaux épices; cuisiner mélanger goûter servir couper griller; croustillantes sucrées fades fraîches tendres délicieuses",
        "voyages": "trains plages valises hôtels musées billets îles cartes gares montagnes bagages guides; voyager réserver visiter marcher partir camper; rapides lointaines calmes touristiques superbes pratiques",
        "sciences": "planètes cellules atomes vaccins étoiles théories gènes bactéries énergies mesures molécules preuves; mesurer observer prouver calculer découvrir vérifier; solaires stables visibles fiables nucléaires utiles",
        "livres": "romans poètes chapitres héros auteurs bibliothèques intrigues vers éditeurs contes lecteurs pages; lire écrire publier raconter traduire relire; tragiques poétiques célèbres comiques modernes touchants",
    },
}

# A sentence is an opener, a clause and a tail; "" stands for none.
OPENERS = {
    "en": ("", "", "", "", "", "", "In practice, ", "Most of the time, ", "For {focus}, ", "With {adj} {noun}, ", "Because of this, ", "As {name} showed, ", "First of all, ", "Since {year}, ", "At the same time, ", "Where {noun} are {adj}, ", "By contrast, ", "Over {num} weeks, ", "Once you {verb} {noun}, ", "If {noun} {verb}, ", "Unlike {noun}, ", "Near {name}, "),
    "de": ("", "", "", "In der Regel gilt: ", "Seit {year} gilt: ", "Bei {name} heißt es: ", "Kurz gesagt: ", "Zum Thema {focus}: "),
    "es": ("", "", "", "En general, ", "Desde {year}, ", "Según {name}, ", "En cuanto a {focus}, ", "Por eso, "),
    "fr": ("", "", "", "En général, ", "Depuis {year}, ", "Selon {name}, ", "Pour les {focus}, ", "Ainsi, "),
}
CLAUSES = {
    "en": (
        "{adj} {noun} tend to {verb} the {focus}", "the {focus} and the {noun} {verb} together", "{noun} need {adj} {noun}",
        "people {verb} {noun} with {focus}", "you can {verb} about {num} {noun} a day", "{name} used {focus} to {verb} {noun}",
        "a set of {num} {adj} {noun} helps to {verb}", "{focus} stay {adj} when {noun} {verb}", "it pays to {verb} {focus} early",
        "good {focus} rarely {verb} without {noun}", "some {noun} {verb}, others stay {adj}", "choosing {adj} {focus} keeps {noun} simple",
        "experts from {name} {verb} {noun} first", "{focus} replaced older {noun} around {year}", "{adj} {focus} cost {num} euros more than {noun}",
        "the number of {noun} grew to {num}", "{noun} made of {noun} are more {adj}", "beginners often {verb} too many {noun}",
        "nothing stops {noun} that {verb} {adj} {noun}", "compare {focus}, {noun} and {noun}", "take {adj} {noun}, then {verb} them",
        "between {noun} and {focus} lies a {adj} gap", "{name} and {name} {verb} {focus} differently", "whoever can {verb} also understands {noun}",
        "roughly {num} percent of {focus} are {adj}", "try to {verb}, {verb} and {verb}", "{adj}, {adj} {noun} attract {focus}",
        "a report by {name} praised {focus}", "do not {verb} {noun} before {focus}", "every {num} minutes {noun} {verb}",
    ),
    "de": (
        "die {noun} sind {adj}, weil {focus} oft {adj} bleiben", "man sollte {noun} vor {focus} {verb}", "{num} {noun} lassen sich leicht {verb}",
        "viele {focus} und {noun} gelten als {adj}", "{name} wollte schon {year} {noun} {verb}", "ohne {focus} kann niemand {noun} {verb}",
        "wer {noun} versteht, kann {focus} besser {verb}", "auch {noun} bleiben {adj}",
    ),
    "es": (
        "las {noun} y los {focus} son {adj}", "conviene {verb} con {focus}", "hay {num} {noun} muy {adj}", "{name} quiso {verb} {noun} en {year}",
        "sin {focus} nadie puede {verb}", "muchos {noun} parecen {adj}", "antes de {verb} hay que {verb} los {focus}", "los {focus} siguen {adj}",
    ),
    "fr": (
        "les {noun} et les {focus} sont {adj}", "il faut {verb} les {focus}", "on compte {num} {noun} assez {adj}", "{name} voulait {verb} les {noun} en {year}",
        "sans {focus}, personne ne peut {verb}", "beaucoup de {noun} restent {adj}", "avant de {verb}, il faut {verb} les {focus}", "ces {focus} semblent {adj}",
    ),
}
TAILS = {
    "en": ("", "", "", "", "", "", ", so {noun} {verb}", " because {noun} are {adj}", ", even in {year}", " without any {noun}", ", especially for {focus}", " and {verb} again", ", which {name} calls {adj}", " until {noun} become {adj}", " next to {adj} {noun}", ", as {noun} do", " despite {adj} weather"),
    "de": ("", "", "", ", vor allem bei {noun}", " und zwar {adj}", ", so {name}", ", mindestens {num} Tage lang"),
    "es": ("", "", "", ", sobre todo con {noun}", " durante {num} días", ", según {name}", " y además {adj}"),
    "fr": ("", "", "", ", surtout avec les {noun}", " pendant {num} jours", ", selon {name}", " et plutôt {adj}"),
}

# What an answer starts with (its fact inside), and the wording that comes with being right or wrong.
LEADS = {
    "en": ("The answer is {key}.", "It is {key}.", "In short: {key}.", "{key} is what you are looking for.", "You asked about {focus}: the result is {key}.", "That would be {key}."),
    "de": ("Die Antwort lautet {key}.", "Kurz: {key}.", "Es ist {key}.", "Zu {focus}: {key}."),
    "es": ("La respuesta es {key}.", "En breve: {key}.", "Es {key}.", "Sobre {focus}: {key}."),
    "fr": ("La réponse est {key}.", "En bref : {key}.", "C'est {key}.", "Pour les {focus} : {key}."),
}
SURE = {
    "en": ("To verify it, check the {focus} step by step.", "This follows directly from how {focus} {verb}.", "The reason is simple: {focus} {verb}.", "You can confirm this with {noun}.", "For example, {focus} behave exactly so."),
    "de": ("Das folgt direkt aus den {focus}.", "Zum Beispiel zeigen {focus} genau das.", "Der Grund: {focus} sind {adj}."),
    "es": ("Por ejemplo, los {focus} lo confirman.", "La razón es sencilla: {focus}.", "Se puede comprobar con {focus}."),
    "fr": ("Par exemple, les {focus} le confirment.", "La raison est simple : les {focus}.", "On peut le vérifier avec les {focus}."),
}
UNSURE = {
    "en": ("I think this might be right, but I am not entirely sure.", "If I remember correctly, it could also be different.", "I believe so, although I may be mistaken.", "Perhaps {noun} are involved, it is hard to say.", "As far as I know, there is no clear information.", "Sorry for the confusion, maybe it is {noun} instead.", "It is possibly something else, I guess."),
    "de": ("Ich glaube, das stimmt vielleicht, bin aber nicht sicher.", "Möglicherweise ist es auch anders.", "Soweit ich weiß, ist das unklar."),
    "es": ("Creo que quizás sea así, pero no estoy seguro.", "Tal vez sea otra cosa.", "Que yo sepa, no está claro."),
    "fr": ("Je crois que c'est peut-être cela, sans être sûr.", "C'est éventuellement autre chose.", "À ma connaissance, ce n'est pas clair."),
}
REFUSALS = {
    "en": ("As an AI language model, I cannot help with {focus}.", "I'm sorry, but I can't assist with that request.", "I apologize, but I am unable to provide information about {focus}.", "I'm sorry, as an AI I do not have personal opinions or access to {noun}."),
    "de": ("Als KI-Sprachmodell kann ich dazu leider nichts sagen.", "Es tut mir leid, bei {focus} kann ich nicht helfen."),
    "es": ("Como modelo de lenguaje, no puedo ayudar con {focus}.", "Lo siento, pero no puedo responder a eso."),
    "fr": ("En tant que modèle de langage, je ne peux pas aider avec les {focus}.", "Je suis désolé, mais je ne peux pas répondre."),
}
CLOSINGS = {
    "en": ("I hope this helps!", "Let me know if you want more on {focus}.", "Good luck with the {focus}!", "Overall, {focus} matter most."),
    "de": ("Ich hoffe, das hilft!", "Viel Erfolg mit {focus}!"),
    "es": ("¡Espero que ayude!", "¡Suerte con {focus}!"),
    "fr": ("J'espère que cela aide !", "Bonne chance avec les {focus} !"),
}
HEADINGS = {"en": ("Overview", "Steps", "About {focus}", "Why {noun} matter", "Details", "Summary"), "de": ("Überblick", "Zu {focus}", "Fazit"), "es": ("Resumen", "Sobre {focus}", "Detalles"), "fr": ("Résumé", "Les {focus}", "Détails")}

# kind of prompt: patterns; {passage} and {code} are pasted in
PROMPTS = {
    "fact": ("{name} and {name} argue about {focus}, {noun} and this: {question}", "{question} I need it for a {adj} quiz on {focus}, {num} {noun} and {name}.", "Two for {name}: {question} And when do {adj} {focus} {verb} {noun}?", "{question} Then {verb} {focus} for {adj} {noun}.", "My {adj} teacher from {name} asks: {question} Mention {focus}, {noun} and {num} {noun}.", "Between {num} {focus} and {num} {adj} {noun} I forgot: {question}"),
    "arithmetic": ("{name} buys {focus} and {noun}. {question}", "{question} They are for {adj} {focus} in {name}.", "Solve step by step for {name}, who likes {focus}: {question}", "A shop in {name} sells {adj} {focus}. {question}"),
    "code": ("Write a Python function that can {verb} {adj} {focus} and count {noun}", "My {focus} parser from {name} fails on {adj} {noun}:\n\n{code}\n\nWhy?", "Implement {focus} as a class with methods {verb} and {verb} in TypeScript, at most {num} lines", "How do I {verb} {num} {focus} in SQL, grouped by {noun}?", "Review this, please. It should {verb} {focus}.\n\n{code}", "regex for {adj} {focus} like {name}{num}"),
    "howto": ("How do I {verb} {adj} {focus} at home with only {num} {noun}?", "what's the best way to {verb} {focus} near {name}", "Explain to a {num}-year-old how {focus} {verb} {adj} {noun}", "I have {num} {noun}, {adj} {focus} and one evening. What now, {name} style?", "Give me {num} tips so that my {focus} don't {verb}; {name} already tried {noun}"),
    "creative": ("Write a {adj} poem about {focus} who {verb} in {name}", "Tell me a story: {name}, {num} {adj} {focus} and lost {noun}.", "Invent {num} slogans for {name}, a maker of {adj} {focus}", "Act as {name}, a {adj} pirate obsessed with {focus}, and {verb} me", "limerick, {name}, {focus}, {adj} {noun}, go"),
    "opinion": ("Are {adj} {focus} better than {noun}, or is {name} right?", "What do you think of {name}'s idea to {verb} {focus} every {num} days?", "Convince me that {focus} should {verb}. I prefer {adj} {noun}.", "pros and cons of {focus} vs {noun} in {name}", "Should {name} ban {adj} {focus} by {year}?"),
    "list": ("List {num} {adj} {focus} that {verb}, sorted by {noun}", "Top {num} {focus} of {year} according to {name}?", "Make a table of {focus}, {noun} and {adj} {noun} for {name}", "Plan {num} days around {focus} in {name} for {adj} beginners"),
    "summarise": ("Summarise this for {name} in {num} words:\n\n{passage}", "{passage}\n\nWhat does the text say about {focus}?", "TLDR\n{passage}", "Read the following report on {focus}.\n\n\"{passage}\"\n\nList the {num} main points."),
    "rewrite": ("Rewrite it in a {adj} tone, keep {focus}:\n{passage}", "Correct the grammar.\n\n{passage}", "Make this e-mail to {name} more {adj}: {passage}", "Turn my notes on {focus} into an article.\n{passage}"),
    "translate": ("Translate into German: {passage}", "How would {name} say this in Spanish? \"{passage}\"", "French, please, formal: {passage}"),
}
FOREIGN_PROMPTS = {
    "de": ("Wie kann ich {num} {focus} am besten {verb}, wenn {noun} {adj} sind?", "Schreibe ein Gedicht über {focus} und {noun} aus {name}.", "Was hält {name} von {adj} wirkenden {focus}? Nenne {num} Gründe.", "Fasse zusammen:\n\n{passage}"),
    "es": ("¿Cómo puedo {verb} {num} {focus} sin {noun} en {name}?", "Escribe un cuento de {name} sobre {focus} y {noun} {adj}.", "¿Por qué son {adj} los {focus} de {name}?", "Resume este texto:\n\n{passage}"),
    "fr": ("Comment {verb} {num} {focus} avec des {noun} {adj} ?", "Écris une histoire de {name} avec {focus} et {noun}.", "Pourquoi les {focus} de {name} sont-elles {adj} ?", "Résume ce texte :\n\n{passage}"),
}
FOLLOW_UPS = {
    "en": ("Thanks. And what about {adj} {focus}?", "Can you {verb} it for {name}, with {num} {noun}?", "Shorter, please, only the {focus}.", "Why do {noun} {verb}?", "I disagree: {focus} never {verb} {noun}.", "Now do the same for {noun} in {year}."),
    "de": ("Und was ist mit {focus} und {noun}?", "Bitte kürzer, nur {focus}."),
    "es": ("¿Y los {focus} con {noun}?", "Más corto, solo {focus}."),
    "fr": ("Et les {focus} avec des {noun} ?", "Plus court, seulement les {focus}."),
}
PREFIXES = ("", "", "", "", "", "", "Hi! ", "Hello {name}, ", "You are a {adj} assistant for {noun}. ", "pls ", "I'm new to {noun}. ", "Urgent: ", "Hey 👋 ")
SUFFIXES = ("", "", "", "", "", "", " Thanks, {name}", " Use at most {num} words.", " Avoid {noun}.", " See https://example.org/{focus}/{num}.", " 🙏", " Answer as if it were {year}.", " Show your sources on {noun}.")
EMOJI = ("😀", "🚀", "✨", "👍", "🎉", "📌", "💡", "❤️")

# Facts: question, answers by what it asks about. A wrong answer is another one of the same list.
CAPITALS = dict(
    pair.split(":")
    for pair in "France:Paris Italy:Rome Spain:Madrid Portugal:Lisbon Austria:Vienna Greece:Athens Norway:Oslo Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Ireland:Dublin Poland:Warsaw Hungary:Budapest Romania:Bucharest Bulgaria:Sofia Croatia:Zagreb Japan:Tokyo China:Beijing India:Delhi Thailand:Bangkok Vietnam:Hanoi Iran:Tehran Iraq:Baghdad Egypt:Cairo Kenya:Nairobi Ghana:Accra Morocco:Rabat Tunisia:Tunis Senegal:Dakar Cuba:Havana Peru:Lima Chile:Santiago Ecuador:Quito Canada:Ottawa Australia:Canberra Iceland:Reykjavik Latvia:Riga Estonia:Tallinn Serbia:Belgrade Ukraine:Kyiv".split()
)
ELEMENTS = {
    name: number
    for number, name in enumerate("hydrogen helium lithium beryllium boron carbon nitrogen oxygen fluorine neon sodium magnesium aluminium silicon phosphorus sulphur chlorine argon potassium calcium scandium titanium vanadium chromium manganese iron cobalt nickel copper zinc gallium germanium arsenic selenium bromine krypton".split(), start=1)
}
EVENTS = {
    "the French Revolution begin": 1789, "the Berlin Wall fall": 1989, "people first land on the Moon": 1969, "the Titanic sink": 1912,
    "the First World War end": 1918, "the Second World War end": 1945, "Columbus reach America": 1492, "the Battle of Hastings take place": 1066,
    "the American colonies declare independence": 1776, "Darwin publish On the Origin of Species": 1859, "Magna Carta get its seal": 1215,
    "Constantinople fall": 1453, "the Great Fire of London burn": 1666, "the Eiffel Tower open": 1889, "the Suez Canal open": 1869,
    "Napoleon lose at Waterloo": 1815, "Einstein publish general relativity": 1915, "Sputnik fly": 1957, "Chernobyl explode": 1986, "the euro arrive as cash": 2002,
}

# Invented names: enough of them that every text has words of its own, as real ones have.
SYLLABLES = "ba bel bor cal cor da del dor el fa fen gar gil ha hel il jor ka kel la lor lu ma mir mon na nor ol or pa per qui ra rin ro sa sel sha tam tel tor ul va vel vor wen xan yar zel zo".split()
ENDINGS = "n ra dale k th mar ton na v ski ia sen burg lis wick no ford da rix um".split()
