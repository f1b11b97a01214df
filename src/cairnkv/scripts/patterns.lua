-- Patterns of Lua 5.1, matched in Lua: for texts and patterns that may take the functions of C too long.
--
-- Nothing can interrupt a function of C. The hook counts the instructions of this file, so a match here has the limits
-- of a script. `cheap` tells which function is to be used, by a bound of the matcher's steps.
--
-- Invariants: results and errors are those of the functions of C. A function of C that this file calls takes linear
-- time, and costs steps if it scans more than some hundred bytes.

local cost, integer, find_plain = ... -- count steps; an argument as int; the search of Python for a plain text

local error, select, tonumber, tostring, type, unpack = error, select, tonumber, tostring, type, unpack
local byte, find, gmatch, gsub, match, sub = string.byte, string.find, string.gmatch, string.gsub, string.match,
    string.sub
local concat, max = table.concat, math.max

local STEPS = 4e6 -- of the matcher of C, at most; about 20 ms
local CAPTURES = 32
local CACHED = 8192 -- bytes of patterns
local BYTES = {}
for i = 0, 255 do BYTES[i + 1] = string.char(i) end
BYTES = concat(BYTES)

local function escaped(char)
    return find(char, "%p") and "%" .. char or char
end

-- Return the position behind a class; or nil and the error.
local function class_end(pattern, at)
    local first = sub(pattern, at, at)
    at = at + 1
    if first == "%" then
        if at > #pattern then return nil, "malformed pattern (ends with '%')" end
        return at + 1
    end
    if first ~= "[" then return at end
    if sub(pattern, at, at) == "^" then at = at + 1 end
    repeat
        if at > #pattern then return nil, "malformed pattern (missing ']')" end
        at = at + (sub(pattern, at, at) == "%" and at < #pattern and 2 or 1)
    until sub(pattern, at, at) == "]"
    return at + 1
end

-- Return the items of a pattern without its anchor, and its captures: "position", "open" or "closed". Lua finds an error
-- when it comes to it, so an error is the last item.
local function parsed(pattern)
    local items, captures, at = {}, {}, 1
    local function add(item)
        items[#items + 1] = item
    end
    local function failed(message)
        add({ kind = "error", message = message })
        return items, captures
    end
    while at <= #pattern do
        local first, second = sub(pattern, at, at), sub(pattern, at + 1, at + 1)
        if first == "(" then
            local n = #captures + 1
            if n > CAPTURES then return failed("too many captures") end
            captures[n] = second == ")" and "position" or "open"
            add({ kind = captures[n], n = n })
            at = at + (second == ")" and 2 or 1)
        elseif first == ")" then
            local n = #captures
            while n > 0 and captures[n] ~= "open" do n = n - 1 end
            if n == 0 then return failed("invalid pattern capture") end
            captures[n] = "closed"
            add({ kind = "close", n = n })
            at = at + 1
        elseif first == "$" and at == #pattern then
            add({ kind = "end" })
            at = at + 1
        elseif first == "%" and second == "b" then
            if at + 3 > #pattern then return failed("unbalanced pattern") end
            add({ kind = "balance", from = sub(pattern, at + 2, at + 2), to = sub(pattern, at + 3, at + 3) })
            at = at + 4
        elseif first == "%" and second == "f" then
            if sub(pattern, at + 2, at + 2) ~= "[" then return failed("missing '[' after '%f' in pattern") end
            local behind, message = class_end(pattern, at + 2)
            if not behind then return failed(message) end
            add({ kind = "frontier", class = sub(pattern, at + 2, behind - 1) })
            at = behind
        elseif first == "%" and find(second, "%d") then
            local n = tonumber(second)
            local capture = captures[n]
            if not capture or capture == "open" then return failed("invalid capture index") end
            add({ kind = "reference", n = n, never = capture == "position" })
            at = at + 2
        else
            local behind, message = class_end(pattern, at)
            if not behind then return failed(message) end
            local class, times = sub(pattern, at, behind - 1), sub(pattern, behind, behind)
            if #class == 1 and class ~= "." then class = escaped(class) end
            if times ~= "" and find("*+-?", times, 1, true) then
                behind = behind + 1
            else
                times = "1"
            end
            add({ kind = times, class = class })
            at = behind
        end
    end
    return items, captures
end

-- The pattern of C ends at its first zero byte.
local function split(pattern)
    local zero = find(pattern, "\0", 1, true)
    if zero then pattern = sub(pattern, 1, zero - 1) end
    if byte(pattern) == 94 then return sub(pattern, 2), true end
    return pattern, false
end

-- Return a bound of the steps of C for a text of n bytes, as a function.
--
-- If the items behind a repetition never fail, it tries one length only. The others, and the start of a match, are
-- positions in ascending order, so there are at most (n + power) over power of them.
local function steps_of(pattern)
    local anchored
    pattern, anchored = split(pattern)
    local items = parsed(pattern)
    local never_fails, matches_end = true, true -- the items behind: anywhere, and at the end of the text
    local power, factor, count = anchored and 0 or 1, 1, max(#items, 1)
    for i = #items, 1, -1 do
        local item = items[i]
        local kind, any = item.kind, item.class == "."
        if kind == "*" or kind == "+" or kind == "-" then
            if not never_fails and (kind == "-" or not any or not matches_end) then power = power + 1 end
            never_fails = kind ~= "+" and (never_fails or any and matches_end)
            matches_end = kind ~= "+" and matches_end
        elseif kind == "?" then
            if not never_fails then factor = factor * 2 end
        elseif kind == "end" then
            never_fails = false
        elseif kind ~= "open" and kind ~= "close" and kind ~= "position" then
            if kind == "balance" or kind == "reference" then power = power + 1 end
            never_fails, matches_end = false, false
        end
    end
    return function(n)
        local steps = count * factor
        for i = 1, power do
            steps = steps * (n + i) / i
            if steps > STEPS then break end
        end
        return steps
    end
end

local lengths, lengths_bytes = {}, 0 -- a pattern -> the length of the longest text that the functions of C may have

local function longest(pattern)
    local steps = steps_of(pattern)
    local length = -1
    if steps(0) <= STEPS then
        local add = 2 ^ 40
        length = 0
        while add >= 1 do
            if steps(length + add) <= STEPS then length = length + add end
            add = add / 2
        end
    end
    lengths_bytes = lengths_bytes + #pattern + 64
    if lengths_bytes > 2 * CACHED then lengths, lengths_bytes = {}, #pattern + 64 end
    lengths[pattern] = length
    return length
end

local function cheap(text, pattern)
    return #text <= (lengths[pattern] or longest(pattern))
end

local function members(class)
    local set = {}
    for char in gmatch(BYTES, class) do set[byte(char)] = true end
    return set
end

-- Return a function that searches a text for a pattern without its anchor, from a position: the positions of the match
-- and behind it. And a function that returns a capture of this match, and the number of captures.
--
-- Each item is a function that matches it and all items behind it at a position, and returns the position behind them.
local function compiled(pattern)
    local items, captures = parsed(pattern)
    local text, length = "", 0
    local starts, ends = {}, {} -- of captures
    local head = function(at) return at end
    local first, first_set -- the class of the byte with which a match of `head` must begin, if there is one

    local function scanned(from, to)
        if to - from > 256 then cost((to - from) / 16) end
    end

    local function add(item)
        local kind, n, class = item.kind, item.n, item.class
        local behind, behind_first, behind_set = head, first, first_set
        if kind == "open" or kind == "position" then
            function head(at)
                starts[n] = at
                return behind(at)
            end
            return
        elseif kind == "close" then
            function head(at)
                ends[n] = at
                return behind(at)
            end
            return
        end
        first, first_set = nil, nil
        if kind == "error" then
            function head() error(item.message) end
        elseif kind == "end" then
            function head(at) return at == length + 1 and at or nil end
        elseif kind == "reference" then
            function head(at)
                if item.never then return nil end
                local size = ends[n] - starts[n]
                if at + size > length + 1 or size > 0 and byte(text, at) ~= byte(text, starts[n]) then return nil end
                scanned(0, 2 * size)
                if sub(text, at, at + size - 1) ~= sub(text, starts[n], ends[n] - 1) then return nil end
                return behind(at + size)
            end
        elseif kind == "frontier" then
            local set = members(class)
            function head(at)
                if set[at > 1 and byte(text, at - 1) or 0] or not set[byte(text, at) or 0] then return nil end
                return behind(at)
            end
        elseif kind == "balance" then
            local from, to = byte(item.from), byte(item.to)
            local either = "[" .. escaped(item.from) .. escaped(item.to) .. "]"
            first = escaped(item.from)
            first_set = members(first)
            function head(at)
                if byte(text, at) ~= from then return nil end
                local depth = 1
                while depth > 0 do
                    local next = find(text, either, at + 1)
                    scanned(at, next or length)
                    if not next then return nil end
                    at = next
                    depth = depth + (byte(text, at) == to and -1 or 1)
                end
                return behind(at + 1)
            end
        else
            local set, run = members(class), "^" .. class .. "*"
            local least = kind == "+" and 1 or 0
            if kind == "1" or kind == "+" then first, first_set = class, set end
            if kind == "1" then
                function head(at)
                    if set[byte(text, at)] then return behind(at + 1) end
                end
            elseif kind == "?" then
                function head(at)
                    local found = set[byte(text, at)] and behind(at + 1)
                    if found then return found end
                    return behind(at)
                end
            elseif kind == "-" and class == "." and behind_first then
                function head(at)
                    while true do
                        local next = find(text, behind_first, at)
                        scanned(at, next or length)
                        if not next then return nil end
                        local found = behind(next)
                        if found then return found end
                        at = next + 1
                    end
                end
            elseif kind == "-" then
                function head(at)
                    while true do
                        local found = behind(at)
                        if found then return found end
                        if not set[byte(text, at)] then return nil end
                        at = at + 1
                    end
                end
            else
                function head(at)
                    local _, last = find(text, run, at)
                    scanned(at, last)
                    for to = last + 1, at + least, -1 do
                        local found = (not behind_set or behind_set[byte(text, to)]) and behind(to)
                        if found then return found end
                    end
                    return nil
                end
            end
        end
    end

    for i = #items, 1, -1 do add(items[i]) end

    local function search(subject, at, anchored)
        text, length = subject, #subject
        if anchored then return at, head(at) end
        while at <= length + 1 do
            if first then
                local next = find(text, first, at)
                scanned(at, next or length)
                if not next then return nil end
                at = next
            end
            local behind = head(at)
            if behind then return at, behind end
            at = at + 1
        end
        return nil
    end

    local function capture(n)
        local kind = captures[n]
        if not kind then error("invalid capture index") end
        if kind == "open" then error("unfinished capture") end
        if kind == "position" then return starts[n] end
        return sub(text, starts[n], ends[n] - 1)
    end

    return { search = search, capture = capture, count = #captures }
end

local matchers, matchers_bytes = {}, 0

local function matcher_of(pattern)
    local matcher = matchers[pattern]
    if not matcher then
        matcher = compiled(pattern)
        matchers_bytes = matchers_bytes + #pattern
        if matchers_bytes > CACHED then matchers, matchers_bytes = {}, #pattern end
        matchers[pattern] = matcher
    end
    return matcher
end

-- Return all captures of the last match; without captures, the match itself, if its positions are given.
local function captures_of(matcher, text, at, behind)
    local count, capture = matcher.count, matcher.capture
    if count == 0 then
        if at then return sub(text, at, behind - 1) end
        return
    end
    if count == 1 then return capture(1) end
    local values = {}
    for n = 1, count do values[n] = capture(n) end
    return unpack(values, 1, count)
end

local function is_number(value)
    return value == nil or type(value) ~= "boolean" and tonumber(value) ~= nil
end

local function start_of(at, length)
    at = tonumber(at or 1)
    if not (at >= -2 ^ 63 and at < 2 ^ 63) then return 1 end
    at = at - at % (at < 0 and -1 or 1) -- as C: towards zero
    if at < 0 then at = at + length + 1 end
    return at < 1 and 1 or at > length + 1 and length + 1 or at
end

local bounded = {}

function bounded.find(text, pattern, from, plain)
    if not is_number(from) then find("", "", from) end -- raises the error
    local at = start_of(from, #text)
    local items, anchored = split(pattern)
    if plain or not (anchored or find(items, "[$*+?.(%[%%-]")) then
        if #text * #pattern <= STEPS then return find(text, pattern, at, true) end
        local found = find_plain(text, pattern, at)
        if found then return found, found + #pattern - 1 end
        return nil
    end
    local matcher = matcher_of(items)
    local first, behind = matcher.search(text, at, anchored)
    if not behind then return nil end
    return first, behind - 1, captures_of(matcher)
end

function bounded.match(text, pattern, from)
    if not is_number(from) then match("", "", from) end
    local items, anchored = split(pattern)
    local matcher = matcher_of(items)
    local first, behind = matcher.search(text, start_of(from, #text), anchored)
    if not behind then return nil end
    return captures_of(matcher, text, first, behind)
end

function bounded.gmatch(text, pattern)
    local matcher = matcher_of((split(pattern)))
    local at = 1
    return function()
        local first, behind = matcher.search(text, at)
        if not behind then return end
        at = behind == first and behind + 1 or behind
        return captures_of(matcher, text, first, behind)
    end
end

bounded.gfind = bounded.gmatch

-- Append what replaces a match to a list: a text in which %0 to %9 stand for the match and its captures.
local function append_text(pieces, replacement, matcher, text, first, behind)
    local at = 1
    while true do
        local escape = find(replacement, "%", at, true)
        if not escape then break end
        pieces[#pieces + 1] = sub(replacement, at, escape - 1)
        local char = sub(replacement, escape + 1, escape + 1)
        if not find(char, "^%d") then
            pieces[#pieces + 1] = char == "" and "\0" or char
        elseif char == "0" or char == "1" and matcher.count == 0 then
            pieces[#pieces + 1] = sub(text, first, behind - 1)
        else
            pieces[#pieces + 1] = matcher.capture(tonumber(char))
        end
        at = escape + 2
    end
    pieces[#pieces + 1] = sub(replacement, at)
end

function bounded.gsub(text, pattern, ...)
    local replacement, most = ...
    local kind = type(replacement)
    if not is_number(most) or kind ~= "string" and kind ~= "number" and kind ~= "function" and kind ~= "table" then
        gsub("", "", ...)
    end
    if kind == "number" then kind, replacement = "string", tostring(replacement) end
    most = most and integer(most, 4, "gsub") or #text + 1
    local items, anchored = split(pattern)
    local matcher = matcher_of(items)
    local pieces, count, at, copied = {}, 0, 1, 1
    while count < most do
        local first, behind = matcher.search(text, at, anchored)
        if not behind then break end
        count = count + 1
        if first > copied then pieces[#pieces + 1] = sub(text, copied, first - 1) end
        if kind == "string" then
            append_text(pieces, replacement, matcher, text, first, behind)
        else
            local value
            if kind == "table" then
                value = replacement[matcher.count == 0 and sub(text, first, behind - 1) or matcher.capture(1)]
            else
                value = replacement(captures_of(matcher, text, first, behind))
            end
            if not value then
                value = sub(text, first, behind - 1)
            elseif type(value) ~= "string" and type(value) ~= "number" then
                error("invalid replacement value (a " .. type(value) .. ")")
            end
            pieces[#pieces + 1] = value
        end
        copied = behind
        at = behind == first and behind + 1 or behind
        if anchored or at > #text + 1 then break end
    end
    pieces[#pieces + 1] = sub(text, copied)
    return concat(pieces), count
end

-- Forget the matchers, and the texts that they hold.
local function reset()
    if matchers_bytes > 0 then matchers, matchers_bytes = {}, 0 end
end

return bounded, cheap, reset
