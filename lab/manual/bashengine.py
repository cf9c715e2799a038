"""The part of the completion script that is the same whatever commands there are. Pure.

It needs bash 4.4 and none of bash-completion's functions. ``completion`` adds the table of
commands, ``_barenode_table``, and where labs are.
"""

ENGINE = r"""
# Puts the words up to the cursor together again where readline cut them, at = and :. Sets words,
# and prefix: the part of the last one that readline keeps on the line.
_barenode_words() {
    local rest=${COMP_LINE:0:COMP_POINT} piece i
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        if ((i == 0)) || [[ $rest == [[:blank:]]* ]]; then
            words+=('')
        fi
        rest=${rest#"${rest%%[![:blank:]]*}"}
        piece=${COMP_WORDS[i]}
        # The cursor may stand within its word.
        ((i < COMP_CWORD)) || piece=$rest
        rest=${rest#"$piece"}
        words[-1]+=$piece
    done
    prefix=${words[-1]%"$piece"}
    # Behind a mark that cuts, the answer is added and replaces nothing.
    [[ -n ${piece//[=:]/} ]] || prefix=${words[-1]}
}

# Adds those of the words $3... that begin with $2 to the answer, each with $1 before it.
_barenode_offer() {
    local head=$1 begun=$2 word
    shift 2
    for word; do
        [[ $word != "$begun"* ]] || COMPREPLY+=("$head$word")
    done
}

# Adds what begins with $3 and can stand for a value of kind $1, each with $2 before it.
_barenode_value() {
    local head=$2 begun=$3 found=()
    case $1 in
        =*)
            read -r -a found <<<"${1#=}"
            ;;
        file | folder)
            # An open quote stays on the line, and readline quotes the answer itself.
            begun=${begun#[\"\']}
            begun=${begun//\\/}
            prefix=${prefix//\\/}
            if [[ $1 == file ]]; then
                mapfile -t found < <(compgen -f -- "$begun")
            else
                mapfile -t found < <(compgen -d -- "$begun")
            fi
            compopt -o filenames 2>/dev/null
            COMPREPLY+=("${found[@]/#/"$head"}")
            return
            ;;
        interface)
            mapfile -t found < <(compgen -G '/sys/class/net/*')
            found=("${found[@]##*/}")
            ;;
        lab)
            _barenode_labs
            found=("${found[@]##*/}")
            ;;
        node)
            _barenode_nodes
            found=("${found[@]##*/}")
            ;;
        command)
            mapfile -t found < <(compgen -c -- "$begun")
            ;;
    esac
    _barenode_offer "$head" "$begun" "${found[@]}"
}

# Reads what the table says of $place.
_barenode_enter() {
    commands=() switches=() valued=() operands=() remainder=
    _barenode_table "$place"
}

# Sets kind to what flag $1 takes; fails for a switch and for an unknown flag.
_barenode_takes() {
    local entry
    flag=$1
    if [[ -n $daemon ]]; then
        flag=${flag#-}
        flag=--${flag#-}
        flag=${flag//_/-}
    fi
    for entry in "${valued[@]}"; do
        if [[ ${entry%%:*} == "$flag" ]]; then
            kind=${entry#*:}
            return 0
        fi
    done
    return 1
}

# Reads the words before the cursor's: sets place, number (of operands), kind (of the value that
# comes next), lab, and after (the number of words since --).
_barenode_read() {
    local word i
    for ((i = 1; i < ${#words[@]} - 1; i++)); do
        word=${words[i]}
        if [[ -n $after ]]; then
            ((++after))
        elif [[ -n $kind ]]; then
            [[ $kind != lab ]] || lab=$word
            kind=
        elif [[ $word == -- ]]; then
            after=0
        elif [[ $word == -*=* ]]; then
            if _barenode_takes "${word%%=*}" && [[ $kind == lab ]]; then
                lab=${word#*=}
            fi
            kind=
        elif [[ $word == -* ]]; then
            _barenode_takes "$word" || kind=
        elif [[ " ${commands[*]} " == *" $word "* ]]; then
            place+=" $word"
            _barenode_enter
        else
            ((++number))
        fi
    done
}

# Offers flags that begin with $1.
_barenode_flags() {
    local names=("${switches[@]}" "${valued[@]%%:*}")
    # Daemons take one dash as well as two; a dash alone says nothing about it.
    if [[ -n $daemon && $1 == -[!-]* ]]; then
        names=("${names[@]/#--/-}")
    fi
    _barenode_offer '' "$1" "${names[@]}"
}

# Offers what the next operand may be, $1 as far as it is typed.
_barenode_operand() {
    local last=$((${#operands[@]} - 1)) which=
    if ((number <= last)); then
        which=${operands[number]}
    elif ((last >= 0)) && [[ ${operands[last]} == *+ ]]; then
        which=${operands[last]}
    elif [[ -n $remainder ]]; then
        which='=--'
    fi
    _barenode_value "${which%+}" '' "$1"
}

_barenode() {
    local IFS=$' \t\n' words prefix daemon='' place=${1##*/}
    local kind='' lab='lab' number=0 after='' flag=''
    local commands switches valued operands remainder current
    COMPREPLY=()
    [[ $place == barenode ]] || daemon=yes
    _barenode_words
    _barenode_enter
    _barenode_read
    current=${words[-1]}
    if [[ -n $after ]]; then
        if [[ -n $remainder && $after -gt 0 ]]; then
            remainder='file'
        fi
        _barenode_value "$remainder" '' "$current"
    elif [[ -n $kind ]]; then
        _barenode_value "$kind" '' "$current"
    elif [[ $current == -*=* ]]; then
        if ! _barenode_takes "${current%%=*}" && [[ -n $daemon ]]; then
            [[ " ${switches[*]} " != *" $flag "* ]] || kind='=true false'
        fi
        _barenode_value "$kind" "${current%%=*}=" "${current#*=}"
    elif [[ $current == -* ]]; then
        _barenode_flags "$current"
    elif ((${#commands[@]} > 0)); then
        _barenode_offer '' "$current" "${commands[@]}"
    else
        _barenode_operand "$current"
    fi
    COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
}

complete -F _barenode barenode netd nodeagent
"""
